"""Errors at the start of the embedded servers, with messages for the person at the keyboard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class EmbeddedError(Exception):
    """Raised when the embedded servers cannot run here.

    code: stable, for programs. message: one line with the problem. next_step: one line with the remedy.
    """

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(f"{message}; {next_step}")
        self.code = code
        self.message = message
        self.next_step = next_step


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError on the way to or below `path` into data_dir_unwritable."""
    try:
        yield
    except OSError as error:
        why = "it is a file" if path.is_file() else (error.strerror or type(error).__name__).lower()
        raise EmbeddedError(
            "data_dir_unwritable", f"{path} cannot be written: {why}", "choose another with --data-dir"
        ) from error
