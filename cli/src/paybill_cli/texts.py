"""Parsers of options with a text or an e-mail address."""

import typer


def text(value: str) -> str:
    """Returns the text of an option in the form in which it is kept."""
    from paybill_contracts.inputs import plain_text  # as every import of a command

    try:
        return plain_text(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def email(value: str) -> str:
    """Returns the e-mail address of an option."""
    from paybill_contracts.inputs import email_address  # as above

    try:
        return email_address(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
