"""Files of definitions that people publish, with the lines of their parts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from paybill_definitions.diagnostics import PartDiagnostic
from paybill_definitions.yaml_lines import Diagnostic, Lines, line_of, report

MAX_CONTENT_BYTES = 480 * 1024
"""Maximum of a published definition: the event must fit into one message."""

C = TypeVar("C")


class StrictInput(BaseModel):
    """Refuses unknown names, because people mistype them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class DefinitionFile(Generic[C]):
    """A definition and the lines of its parts in the file."""

    content: C
    file: str
    lines: Lines

    def report(self, diagnostics: Iterable[PartDiagnostic]) -> list[str]:
        """Returns `<file>:<line>: <reason>` for each."""
        return report(self.file, [Diagnostic(line_of(self.lines, each.path), each.reason) for each in diagnostics])
