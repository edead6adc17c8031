"""A virtual environment with one of our packages and exactly its requirements, made without a network.

The installed files of this environment are linked into it, so nothing is downloaded or built.
"""

import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def requirements(name: str, *extras: str) -> dict[str, Distribution]:
    """Returns the installed distributions that `name[extras]` needs, itself included."""
    found: dict[str, Distribution] = {}
    waiting = [(canonicalize_name(name), frozenset(extras))]
    visited = set()
    while waiting:
        current, chosen = waiting.pop()
        if (current, chosen) in visited:
            continue
        visited.add((current, chosen))
        found[current] = distribution(current)
        for text in found[current].requires or ():
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*chosen, "")):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    return found


def make(folder: Path, name: str, *extras: str) -> Path:
    """Creates the environment in `folder`; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    sources = []
    for found in requirements(name, *extras).values():
        if found.name.startswith("paybill-"):
            sources.append(str(ROOT / "libs" / found.name.removeprefix("paybill-") / "src"))
            continue
        for file in found.files or ():
            if ".." in file.parts:  # a script
                continue
            link = packages / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(str(file.locate())).resolve())
    (packages / "paybill.pth").write_text("\n".join(sources) + "\n")
    return python
