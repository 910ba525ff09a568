"""What a judge said, line by line on the disk: nothing that was paid for is asked again or lost to a kill.

Each line is one question's choice, found by the hash of judge, question and options. The torn last line of a killed
process is cut off when the file is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tether.rewards.judge import Choice, Judge


class Spent(NamedTuple):
    """What the questions of a journal took, those of earlier runs included."""

    questions: int
    requests: int
    """Retries included."""
    tokens_in: int
    tokens_out: int

    def cost(self, price_in: float, price_out: float) -> float:
        """Prices are of a million tokens.

        >>> Spent(2, 3, 500_000, 1_000).cost(price_in=2.0, price_out=10.0)
        1.01
        """
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


class Journal:
    """A judge that asks another one and writes down each answer as it comes. One process, one thread."""

    def __init__(self, judge: Judge, path: Path) -> None:
        self.judge = judge
        self.name = judge.name
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known = self._read()

    def choose(self, questions: Sequence[str], options: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """What is known at once, then what the judge says."""
        keys = [self._key(question, options) for question in questions]
        places: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            if key in self._known:
                yield i, self._known[key]
            else:
                places.setdefault(key, []).append(i)
        new = [own[0] for own in places.values()]
        for n, choice in self.judge.choose([questions[i] for i in new], options):
            self._write(keys[new[n]], choice)
            for i in places[keys[new[n]]]:
                yield i, choice

    @property
    def spent(self) -> Spent:
        """Over all lines."""
        lines = self._known.values()
        return Spent(
            len(lines), sum(c.tries for c in lines), sum(c.tokens_in for c in lines), sum(c.tokens_out for c in lines)
        )

    def _key(self, question: str, options: Sequence[str]) -> str:
        text = json.dumps([self.name, question, list(options)], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _write(self, key: str, choice: Choice) -> None:
        with self._path.open("ab") as file:
            file.write(json.dumps({"key": key, **choice._asdict()}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._known[key] = choice

    def _read(self) -> dict[str, Choice]:
        with self._path.open("a+b") as file:
            file.seek(0)
            text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            file.truncate(len(whole))
        known = {}
        for line in whole.splitlines():
            row = json.loads(line)
            key, probs = row.pop("key"), row.pop("probs")
            known[key] = Choice(None if probs is None else tuple(probs), **row)
        return known
