"""Where a run stands in its data: a shuffled pass, then the next, with no example skipped or repeated over a resume."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tether.types import Group


class Cursor:
    """Draws portions of a list in an order fixed by (seed, epoch). `position` is all the state there is."""

    def __init__(self, groups: Sequence[Group], seed: int, position: int = 0) -> None:
        self.groups, self.seed, self.position = groups, seed, position
        self._epoch, self._order = -1, list[int]()

    def draw(self, count: int) -> list[Group]:
        """The next `count` groups; a portion may span two passes."""
        drawn = []
        for _ in range(count):
            epoch, place = divmod(self.position, len(self.groups))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, list(range(len(self.groups)))
                random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
            drawn.append(self.groups[self._order[place]])
            self.position += 1
        return drawn
