"""Explains an empty list: the values that its filters could have."""

from collections.abc import Callable, Iterable, Sequence

from paybill_cli.client.http import Service
from paybill_cli.client.stack import Stack
from paybill_cli.errors import CliError
from paybill_cli.output import Output

Names = Callable[[Service], Iterable[str]]
"""Returns the values of a filter that a service knows."""


def explain_no_match(
    out: Output, stack: Stack, listed: str, filters: Sequence[tuple[str, Sequence[str], Names]]
) -> None:
    """Prints that nothing matches, and the values of each filter: its title, the services that know them, and how."""
    texts = []
    for title, services, names in filters:
        values: set[str] = set()
        try:
            for name in services:
                with Service(stack, name) as service:
                    values |= set(names(service))
        except CliError as error:
            texts.append(f"{title} are unknown: {error.message}")
        else:
            texts.append(f"{title} are: {', '.join(sorted(values)) or 'none'}")
    out.info("; ".join([f"no {listed} match", *texts]))
