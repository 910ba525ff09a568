"""Who is chosen and by how much: by counts, by Davidson's model, by annotators' reliability."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

from tether.errors import InputError
from tether.feedback.export import Export
from tether.feedback.margins import MARGINS, Pair, Told, Verdict, verdicts
from tether.feedback.records import Answer, Judgement, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.store import Store

A, B, C = 0, 1, 2
BLANK = Judgement(1, 1, 1, 1, 1, "rank", None, None, False, None, None, None, "k", 0, None, 0.0, (A, B))


def vote(user: int, *order: int, last: bool = False) -> Judgement:
    """A ranking of responses, best first."""
    return replace(
        BLANK, user=user, ranking={r: n for n, r in enumerate(order)}, action="adjudicate" if last else "rank"
    )


def tie(user: int) -> Judgement:
    return replace(BLANK, user=user, ranking={A: 0, B: 0})


def pair(*votes: Judgement, last_word: Judgement | None = None) -> Told:
    return Told((A, B), votes, last_word)


def of(found: dict[Pair, Verdict], item: int) -> Verdict:
    return found[Pair(item, A, B)]


def one_unknown_vote() -> float:
    """Crowd-BT's log-odds after one vote of somebody of whom nothing is known: prior variance 2 / ¼, η = ¾."""
    moments = [
        quad(lambda d, k=k: d**k * (0.25 + 0.5 / (1 + math.exp(-d))) * math.exp(-d * d / 16), -40, 40)[0]
        for k in range(3)
    ]
    mean = moments[1] / moments[0]
    return mean / math.sqrt(1 + math.pi / 8 * (moments[2] / moments[0] - mean**2))


def curvature(cost: Any, at: Any, one: Any, other: Any, step: float = 1e-3) -> float:
    signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    return sum(a * b * cost(at + step * (a * one + b * other)) for a, b in signs) / (4 * step**2)


def test_davidson_by_another_road():
    """The posterior's peak by a general search, and the curvature there by differences."""
    told = {1: pair(vote(1, A, B), tie(2), tie(3)), 2: pair(*(vote(u, B, A) for u in (1, 2, 3))), 3: pair(tie(1))}
    counts = [(1, 0, 2), (0, 3, 0), (0, 0, 1)]

    def cost(point: Sequence[float]) -> float:
        *gaps, log_tie = point
        total = log_tie**2 / 2
        for gap, (wins, losses, ties) in zip(gaps, counts, strict=True):
            whole = math.log(math.exp(gap / 2) + math.exp(-gap / 2) + math.exp(log_tie))
            total += (wins + losses + ties) * whole - (wins - losses) * gap / 2 - ties * log_tie + gap**2 / 4
        return total

    peak = minimize(cost, np.zeros(4), tol=1e-12).x
    found = verdicts("davidson", told)
    bend = [[curvature(cost, peak, one, other) for other in np.eye(4)] for one in np.eye(4)]
    for item, variance in zip(told, np.diag(np.linalg.inv(bend)), strict=False):
        expected = peak[item - 1] / math.sqrt(1 + math.pi / 8 * variance)
        assert of(found, item).margin == pytest.approx(expected, abs=1e-3)
    assert (of(found, 1).side, of(found, 2).side) == (1, -1)
    assert of(found, 3) == (0, 0.0)


def test_davidson_learns_of_a_pair_from_the_rest_of_its_item():
    """A and B are tied between themselves, but C loses to A and beats B."""
    votes = [vote(1, A, B), vote(2, B, A), vote(3, A, C), vote(4, C, B)]
    told = {1: Told((A, B, C), votes, None), 2: Told((A, B, C), votes[2:], None)}
    found = verdicts("davidson", told)
    assert of(found, 1).side == 1
    assert of(verdicts("log_odds", told), 1) == (0, 0.0)
    assert Pair(2, A, B) not in found  # nobody compared these two of the second item
    assert found[Pair(1, A, C)].side == 1


def a_crowd(last: int) -> dict[int, Told]:
    """1 and 2 agree on twenty items, where 3 says the opposite every other time and 4 always; then two items more."""
    told = {n: pair(vote(1, A, B), vote(2, A, B), vote(3, *(A, B)[:: (-1) ** n]), vote(4, B, A)) for n in range(20)}
    return told | {100: pair(vote(1, A, B)), 101: pair(vote(last, A, B))}


def test_a_spammer_weighs_less():
    found = verdicts("crowd", a_crowd(last=3))
    sound, spammer = of(found, 100).margin, of(found, 101).margin
    assert sound > 2 * abs(spammer)
    assert of(verdicts("log_odds", a_crowd(3)), 100) == of(verdicts("log_odds", a_crowd(3)), 101)
    told = a_crowd(3) | {102: pair(vote(1, A, B), vote(3, B, A))}
    assert of(verdicts("log_odds", told), 102).side == 0
    assert of(verdicts("crowd", told), 102).side == 1  # the sound one's word stands


def test_who_always_says_the_opposite_is_heard_the_other_way_round():
    found = verdicts("crowd", a_crowd(last=4))
    assert of(found, 101).side == -1
    assert of(verdicts("log_odds", a_crowd(4)), 101) == (1, pytest.approx(math.log(2)))


def test_one_vote_of_a_stranger_by_quadrature():
    assert of(verdicts("crowd", {1: pair(vote(1, A, B))}), 1) == (1, pytest.approx(one_unknown_vote(), abs=2e-4))


@pytest.mark.parametrize(
    ("kind", "margin"),
    [("log_odds", math.log(2)), ("strength", 1.0), ("davidson", None), ("crowd", one_unknown_vote())],
)
def test_an_adjudication_is_the_only_vote(kind: str, margin: float | None):
    votes = [vote(u, A, B) for u in (1, 2, 3)]
    found = verdicts(kind, {1: pair(*votes, last_word=vote(9, B, A, last=True)), 2: pair(vote(1, B, A))})
    assert of(found, 1).side == -1
    if margin is None:  # as any one vote
        assert of(found, 1) == of(found, 2)
    else:
        assert -of(found, 1).margin == pytest.approx(margin, abs=2e-4)


@pytest.mark.parametrize("kind", MARGINS)
def test_sides_are_fair(kind: str):
    """Turned round, every vote turns the verdict; nothing told, nothing found."""
    told = {1: pair(vote(1, A, B), vote(2, A, B), tie(3)), 2: pair(vote(1, A, B), vote(2, B, A), vote(3, B, A))}
    turned = {item: replace(its, responses=(B, A)) for item, its in told.items()}
    one, other = verdicts(kind, told), verdicts(kind, turned)
    for item in told:
        side, margin = one[Pair(item, A, B)]
        assert other[Pair(item, B, A)] == (-side, pytest.approx(-margin))
        assert margin * side > 0
    assert verdicts(kind, {}) == {}


def test_an_unknown_kind():
    with pytest.raises(InputError, match="margin 'mean': is none of log_odds, strength, davidson, crowd"):
        verdicts("mean", {})


def fill(store: Store, num_items: int, said: Any) -> None:
    """`num_items` pairs, each judged by three users; `said(item, user)` is whether the user prefers the first."""
    store.add_guideline("g")
    prompts = store.add_prompts([NewPrompt(f"p{i}") for i in range(num_items)])
    ids = store.add_responses([NewResponse(p, t) for p in prompts for t in "AB"])
    store.add_items([NewItem(ids[2 * i : 2 * i + 2], 3) for i in range(num_items)])
    for name in range(3):
        held = store.claim_many(store.add_user(f"user {name}"), num_items)
        answers = []
        for one in held:
            first, second = sorted(r.id for r in one.responses)
            best = said((first - 1) // 2, name)
            answers.append(Answer(one.id, str(one.id), 1, {first: 1 - best, second: int(best)}))
        store.submit_many(answers)


def test_rows_carry_the_margin_of_whom_it_chooses(tmp_path: Path):
    """User 2 says the opposite of the others, and alone answers the last item in force: the row is turned."""
    with Store.open(tmp_path / "s.db") as store:
        fill(store, 12, lambda item, user: user < 2)
        for judgement in store.judgements():
            if judgement.user < 3 and judgement.item == 12:
                store.undo(judgement.id, f"undo {judgement.id}")
        then = store.last_judgement()
        rows = {kind: store.export(how=Export(kind)) for kind in MARGINS}
        assert [row["margin_kind"] for row in rows["crowd"]] == ["crowd"] * 12
        assert all(row["margin"] > 0 for kind in MARGINS for row in rows[kind])
        assert [row["chosen"] for row in rows["davidson"]] == ["A"] * 11 + ["B"]
        assert [row["chosen"] for row in rows["crowd"]] == ["A"] * 12
        assert rows["crowd"][-1]["votes"] == {"chosen": 0, "rejected": 1, "ties": 0}
        store.undo(store.judgements()[0].id, "undo")
        assert store.export(Query(until=then), Export("crowd")) == rows["crowd"]  # the past stays as it was


def test_five_thousand_items(tmp_path: Path):
    rng = np.random.default_rng(0)
    told = {
        n: pair(*(vote(int(u), *((A, B) if rng.random() < 0.8 else (B, A))) for u in rng.choice(40, 3, replace=False)))
        for n in range(5000)
    }
    for kind in ("davidson", "crowd"):
        began = time.process_time()
        assert len(verdicts(kind, told)) == 5000
        assert time.process_time() - began < 20


def test_mean_strength_can_stand_against_the_majority():
    slight, clear = (replace(vote(u, A, B), strength=1.0) for u in (1, 2)), replace(vote(3, B, A), strength=3.0)
    assert of(verdicts("strength", {1: pair(*slight, clear)}), 1) == Verdict(1, pytest.approx(-1 / 3))
