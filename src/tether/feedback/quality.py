"""How each annotator works: speed, position and length bias, agreement with others and with themselves, gold items.

Four exact binomial tests are made of each annotator. Their null hypotheses:

  position   what is shown first wins as often as what is shown second               two-sided
  length     they prefer the longer answer as often as another one on the same items  two-sided
  agreement  they agree with another as often as that other does with a third         one-sided: less often
  gold       they are right on gold items with the chance asked for, or a better one  one-sided: less often

Length and agreement compare an annotator with others, as the longer answer may well be the better one and items may be
hard. One or two others are drawn for each item, by its name; the tests are exact where annotators can be exchanged.
A flag goes up where Holm's (1979) procedure over all tests of all annotators rejects: when no annotator differs in any
of the four ways, the chance that anyone at all is flagged is at most `level`.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import NormalDist, median
from typing import Any, Literal, NamedTuple, get_args

from tether.errors import InputError
from tether.feedback.agreement import Share, binomial_tail, sign_test
from tether.types import Interval

Choice = Literal["first", "second", "tie", "other", "skip"]
"""`other`: an answer that does not compare the two, such as a ranking that leaves one of them out."""
_TESTS = ("position", "length", "agreement", "gold")


class Vote(NamedTuple):
    """What somebody said of a pair, as they saw it."""

    annotator: str
    item: str | int
    """The same for every vote on the same pair, whichever way round it was shown."""
    first: str | int
    """The response shown first."""
    second: str | int
    choice: Choice
    seconds: float | None = None
    """From showing to answering, where measured."""
    first_words: int | None = None
    """Length of the response shown first, where counted."""
    second_words: int | None = None
    gold: str | int | None = None
    """The response known to be the better, on a gold item."""
    order_known: bool = True
    """Whether the response shown first is known to have been; else the vote says nothing of position bias."""

    @property
    def said(self) -> str | int | None:
        """The preferred response; None where none of the two is."""
        return {"first": self.first, "second": self.second}.get(self.choice)

    @property
    def compares(self) -> bool:
        """Whether it says anything of the pair."""
        return self.choice not in ("other", "skip")

    @property
    def chose_longer(self) -> bool | None:
        """Whether the longer was chosen; None where neither was, or they are as long, or lengths are not known."""
        if self.first_words is None or self.second_words is None or self.first_words == self.second_words:
            return None
        return None if self.said is None else (self.choice == "first") == (self.first_words > self.second_words)


@dataclass(frozen=True)
class AnnotatorQuality:
    """One annotator's row. Shares of nothing are NaN, or None in `as_dict`."""

    annotator: str
    votes: int
    """Everything they answered, skips too."""
    ties: float
    """Share of ties among the votes that compare the pair."""
    skips: float
    """Share of skips among everything."""
    seconds: float
    """Median time for an answer or a skip."""
    fast: float
    """Share answered faster than the texts can be read, of those with time and lengths known."""
    position: Share
    """How often the first shown won."""
    longer: Share
    """How often the longer won: a taste, or a fault."""
    length: Share
    """Where one of them and another preferred the longer and the other did not: how often it was them."""
    agreement: float
    """Share of others' votes on the same items that said the same as theirs."""
    less_agreement: Share
    """Where they and a third differ in agreeing with another: how often it was they who agreed."""
    consistency: Interval
    """Share of repeats answered as the time before, with Wilson's interval."""
    repeats: int
    gold: Interval
    """Share of gold items answered right, with Wilson's interval; a tie is wrong, a skip does not count."""
    below_gold: Share
    """The same, against the chance asked for."""
    flags: tuple[str, ...] = ()
    """Which of the tests `position`, `length`, `agreement`, `gold` they fail."""

    @property
    def p_values(self) -> dict[str, float]:
        """The p-value of each test that had anything to go by."""
        tests = (self.position, self.length, self.less_agreement, self.below_gold)
        return {name: test.p for name, test in zip(_TESTS, tests, strict=True) if test.num}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Share | Interval):
                value = value.as_dict()
            elif isinstance(value, float) and math.isnan(value):
                value = None
            row[field.name] = value
        return row


def annotator_quality(
    votes: Iterable[Vote], *, level: float = 0.05, gold_chance: float = 0.7, words_per_minute: float = 1000.0
) -> list[AnnotatorQuality]:
    """A row for each annotator, by name; votes of one annotator in the order they were cast.

    `gold_chance` is the share of gold items that one should get right. Reading is silent at 240 words a minute
    (Brysbaert 2019), so at `words_per_minute` = 1000 for both texts together nobody has read them. Where somebody
    judged an item twice, agreement and length look at the first time.

    >>> votes = [Vote("ann", i, "a", "b", "first", seconds=2.0, first_words=40, second_words=30) for i in range(12)]
    >>> row = annotator_quality(votes)[0]
    >>> row.votes, row.fast, row.position.share, round(row.position.p, 4), row.flags
    (12, 1.0, 1.0, 0.0005, ('position',))
    """
    if not (0 < level < 1 and 0 < gold_chance < 1 and words_per_minute > 0):
        raise InputError(
            f"level {level} and gold_chance {gold_chance} must be between 0 and 1, and words_per_minute "
            f"{words_per_minute} above 0"
        )
    of_annotator: dict[str, list[Vote]] = defaultdict(list)
    of_item: dict[str | int, dict[str, Vote]] = defaultdict(dict)
    for at, vote in enumerate(votes):
        _check(at, vote)
        of_annotator[vote.annotator].append(vote)
        if vote.compares:
            of_item[vote.item].setdefault(vote.annotator, vote)
    rows = [
        _row(name, of_annotator[name], of_item, gold_chance, words_per_minute / 60) for name in sorted(of_annotator)
    ]
    rejected = holm({(row.annotator, test): p for row in rows for test, p in row.p_values.items()}, level)
    return [replace(row, flags=tuple(test for test in _TESTS if (row.annotator, test) in rejected)) for row in rows]


def holm(p_values: Mapping[Any, float], level: float) -> set[Any]:
    """Names of the hypotheses that Holm's (1979) procedure rejects: P(any of them true) ≤ level, however they depend.

    >>> sorted(holm({"a": 0.01, "b": 0.04, "c": 0.03}, 0.05))  # .01 ≤ .05/3, but .03 > .05/2
    ['a']
    """
    rejected: set[Any] = set()
    for name, p in sorted(p_values.items(), key=lambda one: one[1]):
        if p > level / (len(p_values) - len(rejected)):
            break
        rejected.add(name)
    return rejected


def wilson(right: int, num: int, level: float = 0.95) -> Interval:
    """Wilson's (1927) interval of a share.

    >>> tuple(round(x, 4) for x in wilson(8, 10))
    (0.8, 0.4902, 0.9433)
    """
    if not num:
        return Interval(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = right / num, 1 + z * z / num
    middle = (share + z * z / (2 * num)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def _check(at: int, vote: Vote) -> None:
    if vote.choice not in get_args(Choice):
        raise InputError(f"vote {at}: choice {vote.choice!r} is none of {', '.join(get_args(Choice))}")
    if vote.first == vote.second:
        raise InputError(f"vote {at}: compares response {vote.first!r} with itself")
    if vote.gold is not None and vote.gold not in (vote.first, vote.second):
        raise InputError(f"vote {at}: gold answer {vote.gold!r} is none of the two shown")


def _row(
    name: str,
    votes: Sequence[Vote],
    of_item: Mapping[str | int, Mapping[str, Vote]],
    gold_chance: float,
    words_per_second: float,
) -> AnnotatorQuality:
    compared = [v for v in votes if v.compares]
    timed = [v.seconds for v in votes if v.seconds is not None]
    longer = [chose for v in compared if (chose := v.chose_longer) is not None]
    again = _repeats(compared)
    gold = [v.said == v.gold for v in compared if v.gold is not None]
    agreement, length, less = _against_others(name, {v.item: of_item[v.item] for v in compared})
    return AnnotatorQuality(
        annotator=name,
        votes=len(votes),
        ties=_share([v.choice == "tie" for v in compared]),
        skips=_share([v.choice == "skip" for v in votes]),
        seconds=median(timed) if timed else math.nan,
        fast=_share(_unread((v for v in votes if v.choice != "skip"), words_per_second)),
        position=sign_test(*(sum(v.choice == side for v in compared if v.order_known) for side in ("first", "second"))),
        longer=sign_test(sum(longer), len(longer) - sum(longer)),
        length=length,
        agreement=agreement,
        less_agreement=less,
        consistency=wilson(sum(again), len(again)),
        repeats=len(again),
        gold=wilson(sum(gold), len(gold)),
        below_gold=_expected(gold, gold_chance),
    )


def _unread(votes: Iterable[Vote], words_per_second: float) -> list[bool]:
    return [
        v.seconds < (v.first_words + v.second_words) / words_per_second
        for v in votes
        if v.seconds is not None and v.first_words is not None and v.second_words is not None
    ]


def _repeats(votes: Iterable[Vote]) -> list[bool]:
    """Whether each answer to an item they had answered before was that answer."""
    of_item: dict[str | int, list[str | int | None]] = defaultdict(list)
    for vote in votes:
        of_item[vote.item].append(vote.said)
    return [now == before for said in of_item.values() for before, now in pairwise(said)]


def _against_others(name: str, of_item: Mapping[str | int, Mapping[str, Vote]]) -> tuple[float, Share, Share]:
    """On the items they compared: agreement with all others; the length and agreement tests, with others drawn."""
    same: list[bool] = []
    lengths: list[bool] = []
    agreed: list[bool] = []
    for item, by_name in of_item.items():
        own = by_name[name]
        others = [by_name[other] for other in sorted(by_name) if other != name]
        same += [own.said == other.said for other in others]
        random.Random(f"{item}\0{name}").shuffle(others)
        if others and None not in (pair := (own.chose_longer, others[0].chose_longer)) and pair[0] != pair[1]:
            lengths.append(bool(pair[0]))
        if len(others) > 1:
            mine, theirs = own.said == others[0].said, others[1].said == others[0].said
            agreed += [mine] if mine != theirs else []
    return _share(same), sign_test(sum(lengths), len(lengths) - sum(lengths)), _expected(agreed, 0.5)


def _expected(right: Sequence[bool], chance: float) -> Share:
    """One-sided: the p-value of so few right, or fewer, where each is right with this chance."""
    return Share(_share(right), len(right), binomial_tail(sum(right), len(right), chance))


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else math.nan
