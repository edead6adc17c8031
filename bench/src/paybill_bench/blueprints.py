"""Blueprints of the benchmarks: the one that the provisioner ships, with more cells or passwords at once."""

from importlib.resources import files
from pathlib import Path

_CELLS = "isolation: {}, count: 1,"
_CLOUD = "    cloud: local\n"


def blueprint_file(folder: Path, cells: int, *, credentials_at_once: bool = False) -> Path:
    """Writes the blueprint; returns its path. cells: pools and bridges in each region, of the shipped capacity."""
    text = files("paybill_provisioner").joinpath("blueprints.yaml").read_text("utf-8")
    for isolation in ("pool", "bridge"):
        text = _replaced(text, _CELLS.format(isolation), _CELLS.format(isolation).replace("1,", f"{cells},"))
    if credentials_at_once:
        text = _replaced(text, _CLOUD, f"{_CLOUD}    credentials: at_once\n")
    path = folder / f"blueprint-{cells}-{'at_once' if credentials_at_once else 'on_demand'}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _replaced(text: str, old: str, new: str) -> str:
    if old not in text:
        raise LookupError(f"the shipped blueprint has no {old!r}")
    return text.replace(old, new)
