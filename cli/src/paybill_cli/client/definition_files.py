"""Files that people publish, such as plans.yaml and blueprints.yaml."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paybill_cli.client.http import Service
from paybill_cli.client.requests import idempotent
from paybill_cli.errors import CliError, usage
from paybill_cli.exit_codes import ExitCode
from paybill_cli.options import ConfirmedOptions
from paybill_cli.output import Output

_FLAW = re.compile(r"(.*?):([0-9]+): (.*)", re.DOTALL)


@contextmanager
def with_errors(out: Output, file: Path, kind: str, error_type: type[Exception], exit_code: ExitCode) -> Iterator[None]:
    """Prints the lines of an error in a file of this kind, and raises CliError with their number.

    exit_code: a check that finds errors has failed (FAILED); for other commands the file is wrong input (USAGE).
    """
    try:
        yield
    except error_type as error:
        found = str(error).splitlines()
        for each in found:
            out.line(f"{kind}.flaw", {"flaw": each, **_place(each)}, each)
        count = f"{len(found)} error{'s' if len(found) > 1 else ''}"
        raise CliError(
            f"invalid_{kind}",
            f"{file} has {count}",
            next="correct them, then repeat the command",
            exit_code=exit_code,
        ) from None


def _place(flaw: str) -> dict[str, Any]:
    """Returns the file, the line and the reason of `<file>:<line>: <reason>`; nothing for another form."""
    found = _FLAW.fullmatch(flaw)
    return {"file": found[1], "line": int(found[2]), "reason": found[3]} if found else {}


def text_of(file: Path) -> str:
    """Returns the text of a file. Raises a usage error for one that cannot be read or is not UTF-8."""
    content = bytes_of(file)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise usage(f"{file} is not UTF-8", why=f"line {line}: {error.reason}") from None


def text_or_flaw(file: Path) -> tuple[str | None, str]:
    """Returns the text of a file; for one that cannot be read, None and `<line>: <reason>`."""
    try:
        content = bytes_of(file)
    except CliError as error:
        reason = error.message.removeprefix(f"{file} ")
        return None, f"1: the file {reason}{f': {error.why}' if error.why else ''}"
    try:
        return content.decode(), ""
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, f"{line}: the file is not UTF-8: {error.reason}"


def bytes_of(file: Path) -> bytes:
    """Returns the content of a file. Raises a usage error for one that cannot be read or is too large."""
    from paybill_definitions.yaml_lines import MAX_BYTES

    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise usage(f"{file} cannot be read", why=error.strerror or str(error)) from None
    if len(content) > MAX_BYTES:
        raise usage(f"{file} is larger than {MAX_BYTES} bytes")
    return content


def name_of(file: Path) -> str:
    """Returns the name of the file in the service's messages: the end of a long path."""
    return str(file)[-200:]


def publication_of(service: Service, path: str, file: Path) -> dict[str, Any]:
    """Returns what publishing the file would change; nothing is published."""
    query = {"dry_run": "true", "file": name_of(file)}
    found: dict[str, Any] = service.upload(path, bytes_of(file), "application/yaml", query)
    return found


def publish_previewed(
    out: Output,
    service: Service,
    options: ConfirmedOptions,
    path: str,
    file: Path,
    publication: dict[str, Any],
    *,
    kind: str,
    effect: str,
) -> None:
    """Publishes a file whose changes were shown, unless it is in force already or only they were asked for.

    kind: of definition, such as `policy`; effect: sentence of the question.
    """
    if not publication["changes"]:
        out.info(f"this {kind} is in force already; nothing was published")
        return
    if options.dry_run:
        out.info("nothing was published")
        return
    out.confirm(f"Publish {file}? {effect}", yes=options.yes)
    with idempotent(out, options.idempotency_key) as key:
        service.upload(path, bytes_of(file), "application/yaml", {"file": name_of(file)}, key=key)
    out.info(f"published: {publication['name']}@{publication['version']}")
