"""PPO against numbers that TRL 1.12's own trainer made, the last release that holds one: values and gradients.

scripts/ppo_numbers.py made them and says how to make them again. `trl_update` is PPO from this package's functions
under TRL's conventions, all of which are in it; where TRL does otherwise than we do:

- *One step more.* In a row with padding TRL pays the score one place after the last token, and gives that place a
  value, a reward, a return and a share of the value loss and of what rewards are whitened over: an action that nobody
  took. In a row of full length the score is on the last token. So a response's credit hangs on whether another one in
  the batch is longer. Ours is on the last token, always. With γ = λ = 1 the sums telescope and advantages agree.
- *Whitening* divides by the sample deviation (n − 1); ours by the population's, which is defined for one token too.
- *Means* are of a micro-batch, and its means are averaged; ours have one denominator for the optimiser step. Here the
  micro-batch is given as the whole step. The value's mean counts the one step more, the policy's does not.
- *approx_kl and ratio* are means over padding too, where they are 0 and 1. Its approx_kl is k2, ours k3.
- *The value's clip fraction* counts where the clipped error is the larger; ours where the value has left the range.

The KL's sign, k1 and k3, the penalty for a missing end, the ½ in the value loss and `vf_coef` on it are alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tether.algorithms.ppo import PPO, Config
from tether.math.advantages import gae, shape_rewards
from tether.math.aggregate import aggregate
from tether.math.kl import KL_ESTIMATORS
from tether.math.policy_losses import Clip, clip_fraction, clipped_policy_loss
from tether.math.scores import end_rule
from tether.math.segments import last_index, whiten
from tether.math.value_losses import value_loss
from tether.types import Group, Outputs, Prompt, Response, RolloutBatch, Totals

STORED = json.loads((Path(__file__).parent / "ppo_trl_1_12.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = STORED["cases"]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def tensor(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def places(lengths: Tensor, width: int) -> Tensor:
    """(S, T) bool: the first of each row."""
    return torch.arange(width) < lengths[:, None]


def sample_whiten(x: Tensor, shift_mean: bool = True) -> Tensor:
    """Whitened with the sample deviation, as in TRL."""
    mean = torch.zeros(()) if shift_mean else x.mean()
    return (whiten(x, shift_mean=shift_mean) - mean) * ((len(x) - 1) / len(x)) ** 0.5 + mean


def shapes(case: dict[str, Any]) -> tuple[Tensor, Tensor, int]:
    """(S,) tokens of the responses, (S,) their steps in TRL's eyes, and the width T of its rows."""
    lengths, width = torch.tensor(case["lengths"]), len(case["logprobs"][0])
    return lengths, (lengths + 1).clamp(max=width), width


def scores(case: dict[str, Any], settings: dict[str, Any]) -> Tensor:
    penalty = settings["missing_eos_penalty"]
    rule = "none" if penalty is None else "penalty"
    return end_rule(tensor(case["scores"]), torch.tensor(case["ended"]), rule, penalty or 0.0)


def trl_batch(case: dict[str, Any], settings: dict[str, Any]) -> dict[str, Tensor]:
    """What our functions make of the samples: (S, T), 0 where TRL has nothing."""
    lengths, steps, width = shapes(case)
    on = places(steps, width)
    logprobs, ref_logprobs, values = (tensor(case[n])[on] for n in ("logprobs", "ref_logprobs", "values"))
    kl = KL_ESTIMATORS[settings["kl_estimator"]](logprobs, ref_logprobs)
    rewards = shape_rewards(scores(case, settings), kl, settings["kl_coef"], steps)
    if settings["whiten_rewards"]:
        rewards = sample_whiten(rewards, shift_mean=False)
    advantages, returns = gae(rewards, values, steps, settings["gamma"], settings["lam"])
    tokens = places(lengths, width)
    nothing = torch.zeros(on.shape, dtype=torch.float64)
    return {
        "token_rewards": nothing.masked_scatter(on, rewards),
        "advantages": nothing.masked_scatter(tokens, sample_whiten(advantages[tokens[on]])),
        "returns": nothing.masked_scatter(on, returns),
    }


def trl_update(
    case: dict[str, Any], settings: dict[str, Any], batch: dict[str, Tensor], update: dict[str, Any]
) -> dict[str, Tensor]:
    """One micro-batch's losses, metrics and gradients."""
    rows = torch.tensor(update["rows"])
    lengths, steps, width = (x[rows] if isinstance(x, Tensor) else x for x in shapes(case))
    tokens, on = places(lengths, width), places(steps, width)
    new_logprobs, new_values = (tensor(update[n]).requires_grad_() for n in ("new_logprobs", "new_values"))
    old_logprobs, advantages = tensor(case["logprobs"])[rows][tokens], batch["advantages"][rows][tokens]
    old_values, returns = tensor(case["values"])[rows][on], batch["returns"][rows][on]
    clip, value_clip = Clip(settings["cliprange"], settings["cliprange"]), settings["cliprange_value"]

    def mean(x: Tensor, of: Tensor, count: int | None = None) -> Tensor:
        return aggregate(x, of, Totals(int(of.sum()) if count is None else count, len(rows), len(rows)))

    policy_args = new_logprobs[tokens], old_logprobs, advantages
    policy = mean(clipped_policy_loss(*policy_args, clip), lengths)
    errors = value_loss(new_values[on], old_values, returns, value_clip)
    value = mean(errors, steps)
    loss = policy + settings["vf_coef"] * value
    gradients = torch.autograd.grad(loss, (new_logprobs, new_values))
    with torch.no_grad():
        # Rounding alone may part the two errors of a value that has stayed in the range.
        clipped = (errors > value_loss(new_values[on], old_values, returns, None) + 1e-12).double()
        k2, num_padding = KL_ESTIMATORS["k2"](old_logprobs, new_logprobs[tokens]), int((~tokens).sum())
        ratio = (new_logprobs[tokens] - old_logprobs).exp()
        return {
            "loss": loss,
            "policy_loss": policy,
            "value_loss": value,
            "clip_fraction": mean(clip_fraction(*policy_args, clip), lengths),
            "value_clip_fraction": mean(clipped, steps),
            "approx_kl": mean(k2, lengths, tokens.numel()),
            "ratio": mean(ratio, lengths, tokens.numel()) + num_padding / tokens.numel(),
            "grad_logprobs": gradients[0],
            "grad_values": gradients[1],
        }


def differing(case: dict[str, Any], **changed: Any) -> set[str]:
    """The names of the numbers in which we are not TRL, with some settings changed."""
    settings = case["settings"] | changed
    batch = trl_batch(case, settings)
    pairs = [(name, found, case[name]) for name, found in batch.items()]
    for update in case["updates"]:
        pairs += [(n, found, update[n]) for n, found in trl_update(case, settings, batch, update).items()]
    return {name for name, found, wanted in pairs if not torch.allclose(found, tensor(wanted), **TOLERANCE)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['lengths'])}x{len(case['logprobs'][0])}")
def test_values_and_gradients(case: dict[str, Any]):
    assert differing(case) == set()


def test_the_cases_hold_every_convention():
    assert STORED["versions"]["trl"] == "1.12.0"
    assert len(CASES) >= 20
    options = [case["settings"] for case in CASES]
    assert {s["kl_estimator"] for s in options} == {"k1", "k3"}
    assert {s["whiten_rewards"] for s in options} == {True, False}
    assert {s["gamma"] for s in options} == {0.9, 0.99, 1.0}
    full = [set(case["lengths"]) == {len(case["logprobs"][0])} for case in CASES]
    assert sum(full) >= 4
    assert sum(not x for x in full) >= 12
    assert any(s["missing_eos_penalty"] and not all(c["ended"]) for s, c in zip(options, CASES, strict=True))
    updates = [update for case in CASES for update in case["updates"]]
    assert any(len(case["updates"]) > 1 for case in CASES)
    for clipped in ("clip_fraction", "value_clip_fraction"):
        assert sum(0 < update[clipped] < 1 for update in updates) > len(CASES) / 2


# A setting that is off, how far, and what must then show in every case that it can show in.
WRONG: dict[str, tuple[float, str]] = {
    "gamma": (-0.01, "returns"),
    "lam": (-0.01, "returns"),
    "kl_coef": (0.01, "token_rewards"),
    "missing_eos_penalty": (0.01, "token_rewards"),
    "cliprange": (0.01, "policy_loss"),
    "cliprange_value": (0.01, "value_loss"),
    "vf_coef": (0.01, "loss"),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_setting_that_is_off_shows(field: str):
    off, shows = WRONG[field]
    able = {
        "lam": lambda case: case["settings"]["lam"] > 0,
        "missing_eos_penalty": lambda case: case["settings"][field] and not all(case["ended"]),
        "cliprange": lambda case: any(update["clip_fraction"] > 0 for update in case["updates"]),
        "cliprange_value": lambda case: any(update["value_clip_fraction"] > 0 for update in case["updates"]),
    }.get(field, lambda case: True)
    cases = [case for case in CASES if able(case)]
    assert len(cases) >= 3
    for case in cases:
        assert shows in differing(case, **{field: case["settings"][field] + off})


def test_the_other_kl_estimator_shows():
    for case in CASES:
        other = {"k1": "k3", "k3": "k1"}[case["settings"]["kl_estimator"]]
        assert "token_rewards" in differing(case, kl_estimator=other)


def own_advantages(case: dict[str, Any]) -> Tensor:
    """(N,) under our convention, the score on the last token; not whitened."""
    settings = case["settings"]
    lengths, _, width = shapes(case)
    tokens = places(lengths, width)
    logprobs, ref_logprobs, values = (tensor(case[n])[tokens] for n in ("logprobs", "ref_logprobs", "values"))
    kl = KL_ESTIMATORS[settings["kl_estimator"]](logprobs, ref_logprobs)
    rewards = shape_rewards(scores(case, settings), kl, settings["kl_coef"], lengths)
    return gae(rewards, values, lengths, settings["gamma"], settings["lam"])[0]


def test_what_the_step_more_does_to_advantages():
    alike = []
    for case in CASES:
        lengths, steps, width = shapes(case)
        if case["settings"]["whiten_rewards"] or bool((steps == lengths).all()):
            continue
        theirs = (tensor(case["returns"]) - tensor(case["values"]))[places(lengths, width)]
        ours, last = own_advantages(case), last_index(lengths)
        undiscounted = case["settings"]["gamma"] == case["settings"]["lam"] == 1
        assert torch.allclose(ours, theirs, **TOLERANCE) == undiscounted
        alike.append(undiscounted)
        # A full row has no room for another step: the same numbers there, whatever the discount.
        apart = (ours - theirs)[last].abs() > 1e-5
        assert not apart[steps == lengths].any()
        assert undiscounted or apart[steps > lengths].all()
    assert set(alike) == {True, False}


class Context:
    """What `PPO` asks of a run, answered with TRL's numbers."""

    def __init__(self, case: dict[str, Any]) -> None:
        settings = case["settings"]
        kl = {"estimator": settings["kl_estimator"], "beta": settings["kl_coef"]}
        fields = {"gamma": settings["gamma"], "lam": settings["lam"], "clip": settings["cliprange"], "kl": kl}
        value = {"coef": settings["vf_coef"], "clip": settings["cliprange_value"]}
        self.config = Config.model_validate(
            fields
            | {"name": "ppo", "algorithm": "ppo", "model": "m", "reward": "a:b", "data": {"path": "x"}}
            | {"value": value, "whiten_advantages": False}
        )
        self.state = {"beta": settings["kl_coef"]}
        groups = [Group(Prompt((1,)), (Response((2,) * n),)) for n in case["lengths"]]
        flat = {name: tensor(case[name]).flatten() for name in ("logprobs", "ref_logprobs")}
        self.sampled = RolloutBatch.of(groups, flat["logprobs"], rewards=scores(case, settings), **flat)
        self.answers = SimpleNamespace(values=tensor(case["values"]).flatten(), logprobs=None)

    def collect(self, *_: Any, **__: Any) -> tuple[RolloutBatch, dict[str, Any]]:
        return self.sampled, {}

    def infer(self, *_: Any) -> Any:
        return self.answers

    def forward(self, role: str, batch: RolloutBatch, wanted: tuple[str, ...]) -> Outputs:
        given = {"logprobs": self.answers.logprobs, "entropy": torch.zeros(len(batch.logprobs)).double()}
        return Outputs(**{name: given.get(name, self.answers.values) for name in wanted})


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if set(c["lengths"]) == {len(c["logprobs"][0])} and len(c["updates"]) == 1],
    ids=lambda case: f"{len(case['lengths'])}x{len(case['logprobs'][0])}",
)
def test_the_algorithm_itself_where_no_row_has_padding(case: dict[str, Any]):
    """There one thing is left to differ, the deviation of whitening: rewards, returns and the step are TRL's."""
    assert not case["settings"]["whiten_rewards"]
    ctx, update = Context(case), case["updates"][0]
    batch, _ = PPO.prepare(ctx, ())
    for name in ("token_rewards", "returns"):
        torch.testing.assert_close(getattr(batch, name), tensor(case[name]).flatten(), **TOLERANCE)
    batch = batch.replace(advantages=sample_whiten(batch.advantages))
    torch.testing.assert_close(batch.advantages, tensor(case["advantages"]).flatten(), **TOLERANCE)

    rows, width = torch.tensor(update["rows"]), len(case["logprobs"][0])
    batch = batch.take(rows.tolist())
    assert batch.lengths.tolist() == [width] * len(rows)
    leaves = [tensor(update[name]).flatten().requires_grad_() for name in ("new_logprobs", "new_values")]
    ctx.answers = SimpleNamespace(logprobs=leaves[0], values=leaves[1])
    loss, metrics = PPO.loss(ctx, batch)
    names = {"policy/loss": "policy_loss", "value/loss": "value_loss", "policy/clip_frac": "clip_fraction"}
    for ours, theirs in (names | {"policy/ratio": "ratio"}).items():
        torch.testing.assert_close(metrics[ours], tensor(update[theirs]), **TOLERANCE)
    torch.testing.assert_close(loss, tensor(update["loss"]), **TOLERANCE)
    # A clipped error is the larger only where the value has left the range.
    assert metrics["value/clip_frac"] >= update["value_clip_fraction"] - 1e-6
    for found, name in zip(torch.autograd.grad(loss, leaves), ("grad_logprobs", "grad_values"), strict=True):
        torch.testing.assert_close(found, tensor(update[name]).flatten(), **TOLERANCE)
