"""docs/security.md: every line of its tables is whole, and names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "| attacker | way | what stops it | test | what remains |"


def lines() -> list[list[str]]:
    """Returns the cells of each line of the threat tables."""
    text = (ROOT / "docs/security.md").read_text()
    found = []
    for table in text.split(HEAD)[1:]:
        rows = re.match(r"\n\|[-|]+\|\n((?:\|.*\n)*)", table)
        assert rows is not None, table[:100]
        found += [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1].splitlines()]
    return found


def test_every_line_has_an_attacker_a_way_a_defence_and_tests_that_exist() -> None:
    for cells in lines():
        attacker, way, defence, tests = cells[:4]
        paths = re.findall(r"`([^`]+)`", tests)
        assert len(cells) == 5, cells
        assert attacker, cells
        assert way, cells
        assert defence, cells
        assert paths or (defence, tests) == ("nothing", "none"), cells  # an open threat
        assert [path for path in paths if not (ROOT / path).is_file()] == [], cells


def test_every_section_has_lines() -> None:
    assert len(lines()) > 30
