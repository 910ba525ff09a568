"""What is drawn, and what is left of it when only the best is kept, against the distributions themselves."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.exact.conftest import IDS, SCORE, World, ask, given, log_probs, prompts_of, score
from torch import Tensor

import tether
from tether.math.best_of_n import best_of_n_kl
from tether.models.load import load_policy

DRAWS = 6000


def counts(drawn: list[tuple[int, ...]]) -> Tensor:
    """(Y,) how often each response was drawn."""
    seen = Counter(drawn)
    assert set(seen) <= set(IDS)
    return torch.tensor([seen[ids] for ids in IDS], dtype=torch.float64)


def surprise(seen: Tensor, chance: Tensor) -> float:
    """Pearson's χ² of 39 degrees of freedom, as standard errors from its mean."""
    expected = chance.double() * seen.sum()
    free = len(IDS) - 1
    return float((((seen - expected).square() / expected).sum() - free) / (2 * free) ** 0.5)


def distances(seen: Tensor, chance: Tensor) -> Tensor:
    """(Y,) standard errors between how often a response was drawn and how often it should be."""
    number = seen.sum()
    return (seen - number * chance).abs() / (number * chance * (1 - chance)).sqrt()


@pytest.mark.parametrize("heat", [0.6, 1.0])
def test_responses_are_drawn_as_often_as_the_policy_says(world: World, heat: float):
    ctx = given("reinforce", world(0), score, num_responses=2, sampling={"temperature": heat})
    prompts = [ask(ctx, "a b"), ask(ctx, "c")]
    groups = ctx.generate(prompts_of(prompts, DRAWS), 2)
    for i, prompt in enumerate(prompts):
        seen = counts([r.token_ids for g in groups[i::2] for r in g.responses])
        chance, other = (log_probs(ctx.roles["policy"].hf, prompt, t).detach().sum(1).exp() for t in (heat, 1.5 * heat))
        assert seen.sum() == DRAWS
        assert distances(seen, chance).max() < 4
        assert surprise(seen, chance) < 4
        assert surprise(seen, other) > 6


def best_of(n: int, chance: Tensor, scores: Tensor) -> Tensor:
    """(Y,) F(r)ⁿ − F₋(r)ⁿ, with F the chance of a score up to r and F₋ of one below, shared among equals by chance."""
    below, equal = ((chance * other).sum(1) for other in (scores < scores[:, None], scores == scores[:, None]))
    return ((below + equal) ** n - below**n) * chance / equal


@pytest.mark.parametrize("digits", [4, 0])
def test_best_of_n_has_its_own_distribution(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: int):
    """The stage itself, on one prompt asked many times; with scores that differ, and with ties."""
    monkeypatch.chdir(tmp_path)
    table = {ids: round(value, digits) for ids, value in SCORE.items()}
    module = f"scores_{digits}"
    score_of = "def score(completion_ids, **_):\n    return [TABLE[tuple(ids)] for ids in completion_ids]\n"
    Path(f"{module}.py").write_text(f"TABLE = {table}\n{score_of}")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": "a b", "id": i}) + "\n" for i in range(DRAWS)))
    stage = {"name": "best", "algorithm": "best_of_n", "model": world(0), "data": {"path": "prompts.jsonl"}}
    stage |= {"reward": f"{module}:score", "num_responses": 4, "sampling": {"max_new_tokens": 3, "batch_size": 1024}}
    folder = tether.run({"run": {"name": "x"}, "stage": [stage]})
    rows = [json.loads(line) for line in (folder / "best" / "groups.jsonl").read_text().splitlines()]
    seen = counts([tuple(row["responses"][0]["token_ids"]) for row in rows])
    assert seen.sum() == DRAWS

    role = load_policy(world(0), device="cpu")
    ctx = given("sft", world(0))
    chance = log_probs(role.hf, ask(ctx), 1.0).detach().sum(1).exp().double()
    scores = torch.tensor(list(table.values()))
    kept = {n: best_of(n, chance, scores) for n in (3, 4, 5)}
    assert distances(seen, kept[4]).max() < 4
    assert surprise(seen, kept[4]) < 4
    for wrong in (chance, kept[3], kept[5], best_of(4, chance, -scores)):
        assert surprise(seen, wrong) > 6

    # The formula of the KL takes no two samples to share a score. Two that are the same response do: it is a bound.
    reported = json.loads((folder / "best" / "manifest.json").read_text())["summary"]["metrics"]["bon/kl"]
    true = float((kept[4] * (kept[4] / chance).log()).sum())
    assert reported == best_of_n_kl(4) == math.log(4) - 3 / 4
    assert 0.1 < true < reported


def test_the_kl_of_best_of_n_is_exact_in_the_limit():
    """Among M responses of equal chance; the more there are, the seldomer is one drawn twice."""
    for n in (2, 4, 16):
        gaps = []
        for size in (100, 100_000):
            chance, scores = torch.full((size,), 1 / size, dtype=torch.float64), torch.arange(size)
            below = scores.double() / size
            kept = (below + chance) ** n - below**n
            gaps.append(best_of_n_kl(n) - float((kept * (kept / chance).log()).sum()))
        assert gaps[0] > gaps[1] > 0
        assert gaps[1] < 1e-4
