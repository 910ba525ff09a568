"""An algorithm is one file a person reads top to bottom: short, and no copy of another's."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

import tether.algorithms as table

FILES = sorted(p for p in Path(table.__file__).parent.glob("*.py") if p.name != "__init__.py")
LONGEST = 200
ALIKE = 6
"""Lines in a row, blank lines and imports apart, that would be a copy."""


def windows(file: Path) -> dict[tuple[str, ...], int]:
    """Each run of ALIKE lines of code → the line it starts at."""
    lines = [(n, line.strip()) for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)]
    kept = [(n, line) for n, line in lines if line and not line.startswith(("from ", "import "))]
    return {tuple(line for _, line in kept[i : i + ALIKE]): kept[i][0] for i in range(len(kept) - ALIKE + 1)}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_short_enough_to_read(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_file_copies_another() -> None:
    seen = {file: windows(file) for file in FILES}
    alike = [
        f"{one.name}:{seen[one][lines]} and {other.name}:{seen[other][lines]}"
        for one, other in combinations(FILES, 2)
        for lines in seen[one].keys() & seen[other].keys()
    ]
    assert alike == []


def test_every_file_is_a_row_of_the_table() -> None:
    assert {file.stem for file in FILES} == set(table.ALGORITHMS)
