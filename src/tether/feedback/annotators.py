"""Annotators that are programs: simulated people, to test the loop and to run it where no person is at hand.

The stock ones are the ten raters behind the VADER sentiment lexicon (Hutto & Gilbert 2014): each of its 7,500 words and
emoticons was rated from -4 to 4 by ten people, and the package `vaderSentiment` ships all ten ratings. A rater likes a
text as much as they like its words, so ten raters disagree as ten people did.
It is a taste for cheerful words, no more.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tether.errors import InputError
from tether.feedback.records import UserKind

_FLIP = -0.74  # what a negator leaves of a word's valence: VADER's N_SCALAR, measured on rated sentences
_REACH = 3  # how many words ahead a negator works
_SQUASH = 15.0  # VADER's alpha: the largest sum one expects
_NEGATIONS = """
    no not never none nobody nothing nowhere neither nor nope cannot without hardly barely rarely seldom despite
    aint arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt mustnt neednt shouldnt wasnt werent wont wouldnt
"""
_NEGATORS = frozenset(_NEGATIONS.split())
_LAUGHTER = re.compile(r"(..)\1+.?")  # haha, hahaha, hahahah, hehe, lolol are one joke, not three
_CACHED = 65_536


class Verdict(NamedTuple):
    """What an annotator says about the responses it was shown, in the order shown."""

    ranking: tuple[int, ...] | None
    """Rank of each, 0 the best, equal ranks tie; None for a skip."""
    strength: float | None = None
    """0 (no difference) to 3 (clear), for a pair."""
    skip: str | None = None
    """Why there is no ranking."""
    rationale: str | None = None
    """What lies behind it, kept with the answer."""


class Annotator(Protocol):
    """A program that ranks the responses to a prompt, as a person would."""

    @property
    def name(self) -> str:
        """Name of the user in the store."""
        ...

    @property
    def kind(self) -> UserKind:
        """`ai` or `simulated`."""
        ...

    def compare(self, prompt: str, responses: Sequence[str], rng: random.Random) -> Verdict:
        """Rank the responses as shown; all chance comes from `rng`, so that it can be repeated."""
        ...


@dataclass(frozen=True)
class Rater:
    """A simulated annotator: an opinion, and the ways in which people fall short of theirs.

    >>> careful = Rater("brief", lambda text: -len(text) / 10)
    >>> careful.compare("Hi", ["hello!", "hey"], random.Random(0))
    Verdict(ranking=(1, 0), strength=1.0, skip=None, rationale=None)
    """

    name: str
    opinion: Callable[[str], float]
    """How much they like a text, about -1 to 1."""
    tie: float = 0.1
    """Opinions closer than this are a tie."""
    noise: float = 0.0
    """Standard deviation of what is added to each opinion each time."""
    length: float = 0.0
    """Added for each doubling of a text's number of words: liking long answers for being long."""
    first: float = 0.0
    """Chance of preferring what is shown first without reading: position bias."""
    spam: float = 0.0
    """Chance of answering at random without reading."""
    kind: UserKind = "simulated"
    reverse: float = 0.0
    """Chance of saying the opposite of what they think: 1 is malice."""

    def compare(self, prompt: str, responses: Sequence[str], rng: random.Random) -> Verdict:
        """Rank by opinion (the prompt is not looked at), with this rater's faults."""
        spams, prefers_first = rng.random() < self.spam, rng.random() < self.first
        if spams:
            order = rng.sample(range(len(responses)), len(responses))
            return Verdict(tuple(order), float(rng.randint(1, 3)) if len(order) == 2 else None)
        if prefers_first:
            return Verdict(tuple(range(len(responses))), 1.0 if len(responses) == 2 else None)
        liking = [self._liking(text, rng) for text in responses]
        if self.reverse and rng.random() < self.reverse:
            liking = [-liked for liked in liking]
        difference = abs(liking[0] - liking[1]) if len(liking) == 2 else None
        return Verdict(ranks_by(liking, self.tie), None if difference is None else strength_of(difference, self.tie))

    def true_ranks(self, responses: Sequence[str]) -> tuple[int, ...]:
        """Ranks by opinion alone, without a fault: what their votes are noisy signs of.

        >>> Rater("brief", lambda text: -len(text) / 10, noise=5.0).true_ranks(["hello!", "hey", "hi!"])
        (1, 0, 0)
        """
        return ranks_by([self.opinion(text) for text in responses], self.tie)

    def _liking(self, text: str, rng: random.Random) -> float:
        liked = self.opinion(text)
        if self.length:
            liked += self.length * float(np.log2(1 + len(text.split())))
        return liked + rng.gauss(0.0, self.noise) if self.noise else liked


def ranks_by(liking: Sequence[float], tie: float) -> tuple[int, ...]:
    """Ranks from the best down; each ties with the one just above it when they are closer than `tie`."""
    order = sorted(range(len(liking)), key=lambda i: -liking[i])
    ranks = [0] * len(liking)
    for above, this in pairwise(order):
        ranks[this] = ranks[above] + (liking[above] - liking[this] >= tie)
    return tuple(ranks)


def strength_of(difference: float, tie: float) -> float:
    """0 for a tie, 1 below 0.4, 2 below 0.8, 3 from there (opinions span 2)."""
    return 0.0 if difference < tie else 1.0 + (difference >= 0.4) + (difference >= 0.8)


@dataclass(frozen=True)
class Lexicon:
    """Words and what each of a number of people thinks of them."""

    rows: Mapping[str, int]
    """Lower-case word or emoticon → its row of `ratings`."""
    ratings: NDArray[np.float64]
    """(words, raters)."""
    repeat: float = 0.5
    """The nth time a text uses a word counts repeat^(n-1): nobody is impressed by the fifth "haha"."""

    def opinions(self, text: str) -> NDArray[np.float64]:
        """(raters,) in (-1, 1): the words' ratings summed, then s / sqrt(s² + 15).

        A word counts -0.74 times its rating when a negator is among the three words before it in the same clause.
        """
        weights: dict[int, float] = {}
        times: dict[str, int] = {}
        negated_until = -1
        for at, (word, closes) in enumerate(_words(text, self.rows)):
            row = self.rows.get(word)
            if row is not None and word not in _NEGATORS:
                joke = _LAUGHTER.fullmatch(word)
                seen = joke[1] if joke else word
                times[seen] = times.get(seen, 0) + 1
                flips = at <= negated_until and word[0].isalpha()  # an emoticon means what it shows
                weight = self.repeat ** (times[seen] - 1) * (_FLIP if flips else 1.0)
                weights[row] = weights.get(row, 0.0) + weight
            if word in _NEGATORS or word.endswith("n't"):
                negated_until = at + _REACH
            if closes:
                negated_until = at
        if not weights:
            return np.zeros(self.ratings.shape[1])
        total = np.array(list(weights.values())) @ self.ratings[list(weights)]
        squashed: NDArray[np.float64] = total / np.sqrt(total**2 + _SQUASH)
        return squashed


def _words(text: str, known: Mapping[str, int]) -> Iterator[tuple[str, bool]]:
    """Lower-case words without the punctuation around them, emoticons whole; and whether a clause ends there."""
    for token in text.lower().replace("\u2019", "'").split():
        if token in known:
            yield token, False
        elif stripped := token.strip(string.punctuation):
            yield stripped, token[-1] in ".,;:!?"


@lru_cache(maxsize=1)
def vader_lexicon() -> Lexicon:
    """The VADER lexicon with its ten raters. InputError when the package is not installed."""
    found = find_spec("vaderSentiment")
    if found is None or not found.submodule_search_locations:
        raise InputError("the VADER raters need the package vaderSentiment; pip install 'tether-rlhf[demo]'")
    file = Path(next(iter(found.submodule_search_locations))) / "vader_lexicon.txt"
    ratings: dict[str, list[int]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line:
            word, _mean, _std, ten = line.split("\t")
            ratings[word.lower()] = [int(rating) for rating in ten.strip(" []").split(",")]
    rows = {word: row for row, word in enumerate(ratings)}
    return Lexicon(rows, np.array(list(ratings.values()), dtype=np.float64))


@lru_cache(maxsize=_CACHED)
def _vader_opinions(text: str) -> NDArray[np.float64]:
    return vader_lexicon().opinions(text)


def _vader_opinion(column: int, text: str) -> float:
    return float(_vader_opinions(text)[column])


def vader_raters(
    *, tie: float = 0.1, noise: float = 0.0, length: float = 0.0, first: float = 0.0, spam: float = 0.0
) -> list[Rater]:
    """The ten raters, `vader-0` to `vader-9`, all with the given faults (see `Rater`)."""
    count = vader_lexicon().ratings.shape[1]
    return [Rater(f"vader-{i}", partial(_vader_opinion, i), tie, noise, length, first, spam) for i in range(count)]


def gold(text: str) -> float:
    """The mean opinion of the ten VADER raters, -1 to 1: what the votes are noisy signs of.

    >>> gold("I love it") > gold("It is fine") > 0 > gold("I don't love it")
    True
    """
    return float(_vader_opinions(text).mean())


def gold_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """`gold` with the signature of a reward function: texts, or lists of messages, in; their gold scores out.

    >>> gold_reward(["Hi"], ["I love it"]) == gold_reward(["Hi"], [[{"role": "assistant", "content": "I love it"}]])
    True
    """
    return [gold(said if isinstance(said, str) else said[-1]["content"]) for said in completions]
