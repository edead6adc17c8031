"""Errors in the parts of a definition, without its file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PartDiagnostic:
    """An error, with the path of the part in the definition, such as ("tiers", 0, "resources", 2, "tables")."""

    path: tuple[int | str, ...]
    reason: str
