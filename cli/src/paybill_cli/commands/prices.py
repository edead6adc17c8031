"""`paybill prices`: checks, publishes and shows the price book, by which plans of environments are estimated."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paybill_cli import formatting
from paybill_cli.client.definition_files import publication_of, publish_previewed, text_of, with_errors
from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions
from paybill_cli.output import Output

if TYPE_CHECKING:
    from paybill_definitions.price_book_file import PriceBookFile

PATH = "/v1/price-books"
COLUMNS = ("price_book", "in_force", "content_hash")
CHANGES = ("change", "kind", "cloud", "region", "isolation", "size", "per", "price")
PRICES = CHANGES[1:]

File = Annotated[Path, typer.Argument(help="Price book, such as prices.yaml.", metavar="FILE")]


def lint(out: Output, file: File) -> None:
    """Check a price book without a running stack; exit code 1 when it has errors.

    Each error is a line: file, line and reason.

    Example: paybill prices lint prices.yaml
    """
    from paybill_contracts.event import digest

    content = _checked(out, file, ExitCode.FAILED).content
    summary = {
        "file": str(file),
        "price_book": f"{content.name}@{content.version}",
        "source": content.source,
        "date": content.date,
        "currency": content.currency,
        "prices": len(content.prices),
        "content_hash": digest(content),
    }
    out.record("price_book.lint", summary)


def publish(out: Output, stack: Stack, options: ConfirmedOptions, file: File) -> None:
    """Publish a price book: plans are estimated by it from now on.

    Example: paybill prices publish prices.yaml
    """
    content = _checked(out, file).content
    with Service(stack, "provisioner") as provisioner:
        found = publication_of(provisioner, PATH, file)
        _show(out, found, content.currency)
        effect = "Open approvals of plans with other prices become void."
        publish_previewed(out, provisioner, options, PATH, file, found, kind="price book", effect=effect)


def list_all(out: Output, stack: Stack) -> None:
    """List the price book in force and the earlier versions.

    Example: paybill prices list
    """
    with Service(stack, "provisioner") as provisioner:
        found = provisioner.get(PATH)["price_books"]
    out.rows(
        "price_book.list", [{"price_book": f"{each['name']}@{each['version']}", **each} for each in found], COLUMNS
    )


def show(
    out: Output,
    stack: Stack,
    name: Annotated[str, typer.Argument(help="Name of the price book.", metavar="NAME")],
) -> None:
    """Show the prices of the price book in force.

    Example: paybill prices show list-prices
    """
    with Service(stack, "provisioner") as provisioner:
        shown = provisioner.get(f"{PATH}/{name}")
    if out.json:
        out.record("price_book", shown)
        return
    content = shown["content"]
    out.rows("price_book", [_row(each, content["currency"]) for each in content["prices"]], PRICES)
    out.info(f"{content['name']}@{content['version']}, {content['date']}, from {content['source']}")


def _checked(out: Output, file: Path, exit_code: ExitCode = ExitCode.USAGE) -> "PriceBookFile":
    """Returns the price book in a file; prints all errors and raises CliError when it has some."""
    from paybill_definitions.price_book_file import PriceBookFileError, read_price_book

    with with_errors(out, file, "price_book", PriceBookFileError, exit_code):
        return read_price_book(text_of(file), str(file))


def _show(out: Output, publication: Mapping[str, Any], currency: str) -> None:
    if out.json:
        out.record("price_book.publication", publication)
        return
    rows = [
        {"change": change, **_row(each, currency)} for change in ("removed", "added") for each in publication[change]
    ]
    out.rows("price_book.publication", rows, CHANGES)


def _row(price: Mapping[str, Any], currency: str) -> dict[str, Any]:
    return {**price, "price": f"{formatting.money({'minor': price['minor'], 'currency': currency})} a month"}
