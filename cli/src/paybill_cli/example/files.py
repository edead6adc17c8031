"""Files of an example: those of the checkout, else the copy in the installed package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = (_PACKAGE.parents[2] / "examples", _PACKAGE / "examples")


@dataclass(frozen=True, slots=True)
class ExampleFiles:
    """Paths below the folder of an example."""

    folder: Path

    @classmethod
    def of(cls, name: str) -> Self:
        """Returns the files of the example `name`."""
        return cls(next(found for each in _FOLDERS if (found := each / name).is_dir()))

    @property
    def plans(self) -> Path:
        """Catalogue."""
        return self.folder / "plans.yaml"

    @property
    def blueprints(self) -> Path:
        """Blueprint with the tables."""
        return self.folder / "blueprints.yaml"

    @property
    def data(self) -> Path:
        """SQL that a tenant's own login runs: its rows. It can be repeated."""
        return self.folder / "data.sql"

    def bundle(self) -> dict[str, str]:
        """Returns the texts of the agents' bundle by name."""
        files = sorted(path for path in (self.folder / "agents").iterdir() if path.suffix in {".yaml", ".cedar"})
        return {path.name: path.read_text(encoding="utf-8") for path in files}
