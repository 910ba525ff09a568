"""DPO and its family, KTO, ORPO, SPIN and online DPO: losses written out, what they share, and runs that learn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, run_of, stage, token_reward

from tether.algorithms.dpo import DPO, Config, beta_now
from tether.algorithms.kto import KTO, mismatched
from tether.algorithms.online_dpo import ONLINE_DPO
from tether.algorithms.orpo import ORPO
from tether.algorithms.spin import SPIN
from tether.data.template import Template
from tether.errors import InputError
from tether.math.direct_losses import DIRECT_LOSSES
from tether.models.load import load_policy
from tether.monitor.log import read_events
from tether.rollout.native import NativeSampler
from tether.train.context import Context
from tether.train.evaluate import evaluate_loss
from tether.train.loop import train
from tether.train.selftest import selftest
from tether.types import Algorithm, Group, RolloutBatch

RANKINGS = [(0, 1), (1, 0), (0, 1, 2), (2, 0, 0, 1)]
"""A pair either way round, a full ranking, and one of four with a tie."""
MARGINS = [0.5, 0.0, 1.5, 0.25]


def ranked(template: Template, rankings: list[tuple[int, ...]] = RANKINGS) -> list[Group]:
    widest = examples(template, len(rankings), max(map(len, rankings)))
    return [
        replace(g, responses=g.responses[: len(r)], labels={"ranking": r, "margin": m})
        for g, r, m in zip(widest, rankings, MARGINS * len(rankings), strict=False)
    ]


def unpaired(template: Template, count: int = 6) -> list[Group]:
    """Every third undesirable."""
    return [replace(g, labels={"desirable": i % 3 > 0}) for i, g in enumerate(examples(template, count, 1))]


def given(algorithm: str, tiny: Tiny, **fields: Any) -> Context:
    """A context whose policy is already a step from its reference."""
    extra: dict[str, Any] = {}
    if algorithm in ("online_dpo", "spin"):
        extra = {"sampling": {"max_new_tokens": 8}}
    if algorithm == "online_dpo":
        extra |= {"reward": "unread:reward", "num_responses": 4}
    ctx = context(stage(algorithm, tiny(), **(extra | fields)), token_reward if algorithm == "online_dpo" else None)
    if algorithm == "spin":
        ctx.sampler = NativeSampler(ctx.roles["policy"], ctx.template, ctx.config.sampling)
    return ctx


def nudge(ctx: Context, size: float = 0.02) -> Context:
    """The trained role moved a step away from where it started."""
    generator = torch.Generator().manual_seed(1)
    for parameter in next(iter(ctx.roles.values())).parameters():
        parameter.data += size * torch.randn(parameter.shape, generator=generator)
    return ctx


def log_probs(model: Any, group: Group) -> list[list[float]]:
    """Each response's token log-probs, one plain forward of the Hugging Face model a response."""
    found = []
    for response in group.responses:
        ids = torch.tensor([[*group.prompt.token_ids, *response.token_ids]])
        with torch.no_grad():
            rows = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        picked = rows.gather(1, ids[0, 1:, None])[:, 0]
        found.append(picked[-len(response.token_ids) :].tolist())
    return found


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def written_out(loss: str, d: float, beta: float, m: float, e: float) -> float:
    """The loss of a pair whose scores differ by d."""
    h = beta * d - m
    win, lose = -math.log(sigmoid(h)), -math.log(sigmoid(-h))
    if loss == "ipo":
        goal = 1 / (2 * beta)
        return (1 - e) * (d - m / beta - goal) ** 2 + e * (d - m / beta + goal) ** 2
    if loss == "hinge":
        return (1 - e) * max(0, 1 - h) + e * max(0, 1 + h)
    return ((1 - e) * win - e * lose) / (1 - 2 * e) if loss == "robust" else (1 - e) * win + e * lose


@pytest.mark.parametrize(
    ("fields", "beta", "gamma", "mean", "sft"),
    [
        ({}, 0.1, 0.0, False, 0.0),
        ({"beta": 0.5, "label_smoothing": 0.1, "margin": "label"}, 0.5, 0.0, False, 0.0),
        ({"length_normalised": True, "sft_coef": 0.7, "beta": 2.0}, 2.0, 0.0, True, 0.7),
        ({"loss": "ipo"}, 0.1, 0.0, True, 0.0),
        ({"loss": "ipo", "length_normalised": False, "label_smoothing": 0.2}, 0.1, 0.0, False, 0.0),
        ({"loss": "hinge", "gamma": 0.3, "label_smoothing": 0.2}, 0.1, 0.3, False, 0.0),
        ({"loss": "robust", "label_smoothing": 0.2}, 0.1, 0.0, False, 0.0),
        ({"loss": "simpo"}, 2.0, 1.0, True, 0.0),
        ({"loss": "simpo", "gamma": 0.5, "margin": "label", "beta": 1.0}, 1.0, 0.5, True, 0.0),
        ({"loss": "cpo"}, 0.1, 0.0, False, 1.0),
    ],
)
def test_dpo_written_out(tiny: Tiny, fields: dict[str, Any], beta: float, gamma: float, mean: bool, sft: float):
    ctx = nudge(given("dpo", tiny, **fields))
    groups = ranked(ctx.template)
    loss, share = fields.get("loss", "sigmoid"), 1 / len(groups)
    batch, _ = DPO.prepare(ctx, groups)
    objective, metrics = DPO.loss(ctx, batch)

    expected = dict.fromkeys(("loss", "nll", "accuracy", "margin", "chosen_reward", "rejected_reward"), 0.0)
    expected |= {"chosen_logp": 0.0, "rejected_logp": 0.0}
    reference = load_policy(tiny()).hf
    for group in groups:
        policy = log_probs(ctx.roles["policy"].hf, group)
        base = log_probs(reference, group) if loss not in ("simpo", "cpo") else [[0.0] * len(r) for r in policy]
        scores = [(sum(p) - sum(b)) / (len(p) if mean else 1) for p, b in zip(policy, base, strict=True)]
        ranks = group.labels["ranking"]
        pairs = [(a, b) for a in range(len(ranks)) for b in range(len(ranks)) if ranks[a] < ranks[b]]
        for winner, loser in pairs:
            weight, d = share / len(pairs), scores[winner] - scores[loser]
            m = gamma + (group.labels["margin"] if "margin" in fields else 0.0)
            expected["loss"] += weight * written_out(loss, d, beta, m, fields.get("label_smoothing", 0.0))
            expected["nll"] -= weight * sum(policy[winner]) / len(policy[winner])
            expected["accuracy"] += weight * (d > 0)
            expected["margin"] += weight * beta * d
            expected["chosen_reward"] += weight * beta * scores[winner]
            expected["rejected_reward"] += weight * beta * scores[loser]
            expected["chosen_logp"] += weight * sum(policy[winner])
            expected["rejected_logp"] += weight * sum(policy[loser])
    assert {n.removeprefix("dpo/"): float(v) for n, v in metrics.items()} == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert objective.item() == pytest.approx(expected["loss"] + sft * expected["nll"], rel=1e-4)


def test_the_table_and_the_config_name_the_same_losses():
    assert set(get_args(Config.model_fields["loss"].annotation)) == set(DIRECT_LOSSES)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "robust"])
def test_dpo_before_the_first_update(tiny: Tiny, loss: str):
    ctx = given("dpo", tiny, loss=loss, **({"label_smoothing": 0.1} if loss == "robust" else {}))
    batch, about = DPO.prepare(ctx, ranked(ctx.template))
    objective, metrics = DPO.loss(ctx, batch)
    assert about == {"dpo/beta": 0.1}
    assert objective.item() == pytest.approx(1.0 if loss == "hinge" else math.log(2), abs=1e-5)
    assert abs(float(metrics["dpo/margin"])) < 1e-5
    assert abs(float(metrics["dpo/chosen_reward"])) < 1e-5


def test_only_losses_with_a_reference_load_one(tiny: Tiny):
    for loss, row in DIRECT_LOSSES.items():
        section = stage("dpo", tiny(), loss=loss, **({"label_smoothing": 0.1} if loss == "robust" else {}))
        assert ("reference" in DPO.roles(section)) == row.reference
    other = DPO.roles(stage("dpo", tiny(), reference="stage:sft"))
    assert other["reference"].model == "stage:sft"
    assert other["reference"].optim is None


def test_beta_goes_to_its_end(tiny: Tiny):
    ctx = given("dpo", tiny, beta=0.5, beta_end=0.1, train={"steps": 5})
    found = []
    for ctx.step in range(6):
        batch, about = DPO.prepare(ctx, ranked(ctx.template, [(0, 1)]))
        found.append(about["dpo/beta"])
        assert float(DPO.loss(ctx, batch)[1]["dpo/loss"]) == pytest.approx(math.log(2), abs=1e-5)
    assert found == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    assert beta_now(given("dpo", tiny, beta=0.5, train={"steps": 5})) == 0.5


def test_ties_teach_nothing(tiny: Tiny):
    for algorithm in (DPO, ORPO):
        ctx = nudge(given(algorithm.name, tiny))
        batch, _ = algorithm.prepare(ctx, ranked(ctx.template, [(0, 0), (1, 1, 1)]))
        objective, metrics = algorithm.loss(ctx, batch)
        objective.backward()
        assert objective.item() == 0
        assert all(float(value) == 0 for value in metrics.values())


def test_cached_log_probs_are_those_of_the_reference(tiny: Tiny):
    ctx = nudge(given("dpo", tiny))
    groups = ranked(ctx.template)
    batch, _ = DPO.prepare(ctx, groups)
    torch.testing.assert_close(batch.ref_logprobs, ctx.infer("reference", groups, ("logprobs",)).logprobs)
    assert not batch.ref_logprobs.requires_grad


# All of them


def made(name: str, tiny: Tiny) -> tuple[Algorithm, Context, RolloutBatch]:
    """A prepared batch of six groups, of a policy that has moved."""
    algorithm = {a.name: a for a in (DPO, KTO, ORPO, SPIN, ONLINE_DPO)}[name]
    ctx = nudge(given(name, tiny))
    if name == "kto":
        groups = unpaired(ctx.template)
    elif name in ("dpo", "orpo"):
        groups = ranked(ctx.template, [*RANKINGS, (0, 1), (0, 0)])
    else:
        groups = examples(ctx.template, 6, 1)
    return algorithm, ctx, algorithm.prepare(ctx, groups)[0]


EVERY = ["dpo", "kto", "orpo", "spin", "online_dpo"]


@pytest.mark.parametrize("name", EVERY)
def test_shares_of_micro_batches_add_up(tiny: Tiny, name: str):
    algorithm, ctx, batch = made(name, tiny)
    together, metrics = algorithm.loss(ctx, batch)
    parts = [algorithm.loss(ctx, batch.take(members)) for members in ([4, 0], [5], [1, 2, 3])]
    torch.testing.assert_close(sum(loss for loss, _ in parts), together)
    for key, value in metrics.items():
        torch.testing.assert_close(sum(m.get(key, 0) for _, m in parts), value, msg=key)


@pytest.mark.parametrize("name", EVERY)
def test_only_the_trained_role_has_a_gradient(tiny: Tiny, name: str):
    algorithm, ctx, batch = made(name, tiny)
    algorithm.loss(ctx, batch)[0].backward()
    first, *others = ctx.roles.values()
    assert all(p.grad is not None for p in first.parameters())
    assert all(p.grad is None for role in others for p in role.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_a_step_lowers_the_loss(tiny: Tiny, name: str):
    algorithm, ctx, batch = made(name, tiny)
    before = algorithm.loss(ctx, batch)[0]
    before.backward()
    for parameter in next(iter(ctx.roles.values())).parameters():
        parameter.data -= 1e-3 * parameter.grad
    assert algorithm.loss(ctx, batch)[0].item() < before.item()


@pytest.mark.parametrize("name", EVERY)
def test_the_self_test_passes(tiny: Tiny, name: str):
    ctx = given(name, tiny)
    source = {"kto": unpaired, "dpo": ranked, "orpo": ranked}.get(name, lambda t: examples(t, 8, 1))
    algorithm = {a.name: a for a in (DPO, KTO, ORPO, SPIN, ONLINE_DPO)}[name]
    passed = selftest(algorithm, ctx, source(ctx.template))
    assert ("kl_start" in passed) == (name in ("dpo", "kto", "online_dpo"))
    assert ("ratio_one" in passed) == (name in ("spin", "online_dpo"))
    assert ("comparisons_labelled" in passed) == (name in ("dpo", "orpo"))


def test_the_self_test_asks_for_the_start_policy_unless_another_is_named(tiny: Tiny):
    ctx = given("dpo", tiny, reference=tiny(seed=1))
    assert "kl_start" not in selftest(DPO, ctx, ranked(ctx.template))
    moved = nudge(given("dpo", tiny))
    with pytest.raises(InputError, match="kl_start"):
        selftest(DPO, moved, ranked(moved.template))


# ORPO


def test_orpo_written_out(tiny: Tiny):
    ctx = given("orpo", tiny, odds_coef=0.4)
    groups = ranked(ctx.template)
    objective, metrics = ORPO.loss(ctx, ORPO.prepare(ctx, groups)[0])
    nll = odds = 0.0
    for group in groups:
        means = [sum(row) / len(row) for row in log_probs(ctx.roles["policy"].hf, group)]
        ranks = group.labels["ranking"]
        pairs = [(a, b) for a in range(len(ranks)) for b in range(len(ranks)) if ranks[a] < ranks[b]]
        for winner, loser in pairs:
            weight, (p, q) = 1 / len(pairs) / len(groups), (math.exp(means[winner]), math.exp(means[loser]))
            ratio = (p / (1 - p)) / (q / (1 - q))
            nll -= weight * means[winner]
            odds += weight * math.log(1 + 1 / ratio)
    assert objective.item() == pytest.approx(nll + 0.4 * odds, rel=1e-4)
    assert float(metrics["orpo/nll"]) == pytest.approx(nll, rel=1e-4)
    assert float(metrics["orpo/odds_loss"]) == pytest.approx(odds, rel=1e-4)


# KTO


def test_kto_written_out(tiny: Tiny):
    ctx = nudge(given("kto", tiny, beta=0.3, desirable_weight=0.8, undesirable_weight=1.4))
    groups = unpaired(ctx.template, 5)
    batch, about = KTO.prepare(ctx, groups)
    objective, metrics = KTO.loss(ctx, batch)
    reference = load_policy(tiny()).hf

    def ratio(group: Group) -> float:
        return sum(log_probs(ctx.roles["policy"].hf, group)[0]) - sum(log_probs(reference, group)[0])

    shifted = [Group(g.prompt, groups[(i + 1) % 5].responses) for i, g in enumerate(groups)]
    z = max(0.0, sum(map(ratio, shifted)) / 5)
    assert about == {"kto/baseline": pytest.approx(z, abs=1e-4), "kto/desirable": 0.6}
    ctx.state["baseline"] = 0.2  # whichever side of 0 the estimate fell
    objective, metrics = KTO.loss(ctx, batch)
    loss, rewards = 0.0, {True: 0.0, False: 0.0}
    for group in groups:
        good, r = group.labels["desirable"], ratio(group)
        loss += (0.8 * (1 - sigmoid(0.3 * (r - 0.2))) if good else 1.4 * (1 - sigmoid(0.3 * (0.2 - r)))) / 5
        rewards[good] += 0.3 * r / (3 if good else 2)
    assert objective.item() == pytest.approx(loss, rel=1e-4)
    assert float(metrics["kto/desirable_reward"]) == pytest.approx(rewards[True], rel=1e-3, abs=1e-5)
    assert float(metrics["kto/undesirable_reward"]) == pytest.approx(rewards[False], rel=1e-3, abs=1e-5)


def test_mismatched_pairs(tiny: Tiny):
    one, other, third = examples(Template.load(tiny()), 3, 1)
    twice = replace(one, responses=other.responses)
    found = mismatched([one, twice, other, third], 10_000)
    assert [g.prompt for g in found] == [one.prompt, one.prompt, other.prompt, third.prompt]
    # Never the response to the same prompt, be it another example's.
    assert [g.responses[0].token_ids for g in found] == [g.responses[0].token_ids for g in (other, other, third, one)]
    assert mismatched([one, twice], 10_000) == []
    assert mismatched([one], 10_000) == []
    short = len(one.prompt.token_ids) + 1
    assert mismatched([one, other], short)[0].responses[0].token_ids == other.responses[0].token_ids[:1]


def test_kto_of_one_kind_or_one_prompt(tiny: Tiny):
    ctx = nudge(given("kto", tiny))
    for groups in (unpaired(ctx.template)[1:3], unpaired(ctx.template)[:1]):
        batch, about = KTO.prepare(ctx, groups)
        objective, metrics = KTO.loss(ctx, batch)
        assert all(math.isfinite(float(value)) for value in (*about.values(), *metrics.values()))
        assert objective.isfinite()
        kind = "desirable" if groups[0].labels["desirable"] else "undesirable"
        assert f"kto/{kind}_reward" in metrics
        assert len([name for name in metrics if name.endswith("_reward")]) == 1
    assert about["kto/baseline"] == 0


# SPIN


def test_spin_plays_against_its_start(tiny: Tiny):
    ctx = given("spin", tiny)
    groups = examples(ctx.template, 6, 1)
    assert next(iter(SPIN.roles(ctx.config))) == "player"
    batch, about = SPIN.prepare(ctx, groups)
    assert SPIN.loss(ctx, batch)[0].item() == pytest.approx(math.log(2), abs=1e-5)
    assert about["spin/same"] == 0
    start = [g.responses[1].token_ids for g in batch.groups]
    nudge(ctx, 0.5)
    again, _ = SPIN.prepare(ctx, groups)
    assert [g.responses[1].token_ids for g in again.groups] == start
    assert [g.responses[0] for g in again.groups] == [g.responses[0] for g in groups]
    sampled = torch.tensor([p for g in again.groups for p in g.responses[1].logprobs or ()])
    answers = torch.cat([x for i, x in enumerate(again.ref_logprobs.split(again.lengths.tolist())) if i % 2])
    torch.testing.assert_close(answers, sampled, rtol=1e-4, atol=1e-4)


def test_spin_is_dpo_of_demonstration_over_answer(tiny: Tiny):
    ctx = nudge(given("spin", tiny, beta=0.4))
    batch, _ = SPIN.prepare(ctx, examples(ctx.template, 6, 1))
    pairs = [replace(g, labels={"ranking": (0, 1)}) for g in batch.groups]
    dpo = nudge(given("dpo", tiny, beta=0.4))
    expected, metrics = DPO.loss(dpo, DPO.prepare(dpo, pairs)[0])
    found, about = SPIN.loss(ctx, batch)
    torch.testing.assert_close(found, expected)
    for name in ("accuracy", "margin", "chosen_reward", "rejected_reward"):
        torch.testing.assert_close(about[f"spin/{name}"], metrics[f"dpo/{name}"])


def test_spin_plays_the_first_turn_of_a_conversation(tiny: Tiny):
    ctx = given("spin", tiny)
    turns = [("user", "hello there"), ("assistant", "I am fine"), ("user", "what is"), ("assistant", "the cat")]
    whole = ctx.template.conversation([{"role": role, "content": text} for role, text in turns])
    alone = ctx.template.conversation([{"role": role, "content": text} for role, text in turns[:2]])
    batch, _ = SPIN.prepare(ctx, [whole])
    assert batch.groups[0].responses[0].token_ids == alone.responses[0].token_ids
    assert batch.groups[0].responses[0].num_trained == len(alone.responses[0].token_ids)


# Online DPO


def test_online_pairs_are_the_best_and_the_worst(tiny: Tiny):
    ctx = nudge(given("online_dpo", tiny))
    prompts = [Group(g.prompt) for g in examples(ctx.template, 8, 1)]
    batch, about = ONLINE_DPO.prepare(ctx, prompts)
    answered = ctx.generate(prompts, 4)
    ties = 0
    for pair, group in zip(batch.groups, answered, strict=True):
        scores = dict(zip((r.token_ids for r in group.responses), ctx.score([group]).tolist(), strict=True))
        best, worst = (scores[r.token_ids] for r in pair.responses)
        assert (best, worst) == (max(scores.values()), min(scores.values()))
        ties += best == worst
        assert pair.labels["ranking"] == ((0, 0) if best == worst else (0, 1))
    assert about["dpo/tied"] == pytest.approx(ties / 8)
    expected = ctx.infer("reference", batch.groups, ("logprobs",)).logprobs
    torch.testing.assert_close(batch.ref_logprobs, expected, rtol=1e-4, atol=1e-4)
    assert batch.lengths.sum() == len(batch.ref_logprobs)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_online_loss_is_dpos(tiny: Tiny, loss: str):
    ctx = nudge(given("online_dpo", tiny, loss=loss, kl={"beta": 0.2}))
    batch, _ = ONLINE_DPO.prepare(ctx, [Group(g.prompt) for g in examples(ctx.template, 6, 1)])
    dpo = nudge(given("dpo", tiny, loss=loss, beta=0.2))
    expected, _ = DPO.loss(dpo, DPO.prepare(dpo, batch.groups)[0])
    torch.testing.assert_close(ONLINE_DPO.loss(ctx, batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_constant_reward_makes_no_pair(tiny: Tiny):
    ctx = given("online_dpo", tiny)
    ctx.scorer = lambda groups: torch.ones(sum(len(g.responses) for g in groups))
    batch, about = ONLINE_DPO.prepare(ctx, [Group(g.prompt) for g in examples(ctx.template, 4, 1)])
    objective, _ = ONLINE_DPO.loss(ctx, batch)
    assert about["dpo/tied"] == 1
    assert objective.item() == 0


# Runs


def learn(
    name: str, tiny: Tiny, folder: Path, groups: list[Group], held_out: list[Group], **fields: Any
) -> list[dict[str, Any]]:
    plan = {"steps": 12, "batch_size": 16} | fields.pop("train", {})
    ctx = given(name, tiny, **({"optim": {"lr": 3e-3}, "train": plan} | fields))
    train(run_of(ctx, groups, folder), held_out)
    return read_events(folder)


def by_parity(template: Template, count: int, seed: int) -> list[Group]:
    """Comparisons whose chosen response is a run of one word, the rejected of another."""
    groups = examples(template, count, 1, seed)
    return [
        Group(g.prompt, tuple(template.respond(g.prompt, word) for word in ("fine", "cat")), {"ranking": (0, 1)})
        for g in groups
    ]


@pytest.mark.parametrize(("name", "fields"), [("dpo", {}), ("dpo", {"loss": "simpo"}), ("orpo", {"odds_coef": 1.0})])
def test_a_preference_is_learnt_and_holds_on_other_prompts(
    tiny: Tiny, tmp_path: Path, name: str, fields: dict[str, Any]
):
    template = Template.load(tiny())
    events = learn(name, tiny, tmp_path, by_parity(template, 32, 0), by_parity(template, 8, 1), **fields)
    evaluations = [e for e in events if e["kind"] == "eval"]
    assert evaluations[-1]["eval/accuracy"] == 1
    assert evaluations[-1]["eval/margin"] > evaluations[0]["eval/margin"] + 0.1
    assert evaluations[-1]["eval/loss"] < evaluations[0]["eval/loss"]


def test_kto_learns_which_kind_is_wanted(tiny: Tiny, tmp_path: Path):
    template = Template.load(tiny())

    def halves(count: int, seed: int) -> list[Group]:
        pairs = by_parity(template, count, seed)
        return [Group(g.prompt, (r,), {"desirable": i == 0}) for g in pairs for i, r in enumerate(g.responses)]

    events = learn("kto", tiny, tmp_path, halves(16, 0), halves(8, 1))
    first, last = (e for e in events if e["kind"] == "eval")
    assert first["eval/loss"] == pytest.approx(0.5, abs=1e-4)
    assert last["eval/loss"] < 0.45
    assert last["eval/desirable_reward"] > last["eval/undesirable_reward"] + 0.2


def test_spin_tells_demonstrations_from_its_own_answers(tiny: Tiny, tmp_path: Path):
    template = Template.load(tiny())
    groups = [replace(g, responses=g.responses[:1], labels={}) for g in by_parity(template, 24, 0)]
    events = learn("spin", tiny, tmp_path, groups[:16], groups[16:])
    first, last = (e for e in events if e["kind"] == "eval")
    assert last["eval/accuracy"] > 0.9
    assert last["eval/chosen_reward"] > first["eval/chosen_reward"] + 0.3


def test_online_dpo_learns_a_toy_reward(tiny: Tiny, tmp_path: Path):
    prompts = [Group(g.prompt) for g in examples(Template.load(tiny()), 32, 1)]
    events = [e for e in learn("online_dpo", tiny, tmp_path, prompts, []) if e["kind"] == "train"]
    proxy, spread = ([e[name] for e in events] for name in ("reward/proxy", "reward/std"))
    error = (2 * spread[0] ** 2 / 128) ** 0.5  # of the difference of two means of 128 responses
    assert sum(proxy[-2:]) / 2 - sum(proxy[:2]) / 2 > 5 * error


def test_held_out_examples_are_prepared_as_the_others(tiny: Tiny):
    ctx = nudge(given("dpo", tiny))
    groups = ranked(ctx.template)
    found = evaluate_loss(DPO, ctx, groups)
    _, metrics = DPO.loss(ctx, DPO.prepare(ctx, groups)[0])
    assert found == {n.replace("dpo/", "eval/"): pytest.approx(float(v), rel=1e-5) for n, v in metrics.items()}


def test_held_out_answers_are_the_same_every_time(tiny: Tiny):
    ctx = nudge(given("spin", tiny))
    groups = examples(ctx.template, 6, 1)
    before = evaluate_loss(SPIN, ctx, groups)
    ctx.step = 7
    assert evaluate_loss(SPIN, ctx, groups) == before
    assert ctx.step == 7


@pytest.mark.parametrize(
    ("algorithm", "fields", "says"),
    [
        ("dpo", {"loss": "robust"}, "give the share of flipped labels"),
        ("dpo", {"loss": "simpo", "reference": "x"}, "uses no reference"),
        ("dpo", {"beta_end": 0.1}, "give train.steps"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing"),
        ("dpo", {"beta": 0.0}, "beta"),
        ("dpo", {"loss": "kto"}, "loss"),
        ("orpo", {"label_smoothing": 0.1}, "label_smoothing"),
        ("orpo", {"reference": "x"}, "reference"),
        ("kto", {"desirable_weight": 0.0}, "desirable_weight"),
        ("kto", {"train": {"batch_size": 1}}, "train.batch_size must be 2 or more"),
        ("spin", {"sampling": {"top_k": 3}}, "leave sampling.top_k and top_p at 0 and 1"),
        ("spin", {"sampling": {"top_p": 0.5}}, "leave sampling.top_k and top_p at 0 and 1"),
        ("online_dpo", {"num_responses": 1}, "num_responses"),
        ("online_dpo", {"kl": {"use": "loss"}}, "kl.use and kl.estimator have no part here"),
        ("online_dpo", {"kl": {"beta": 0.0}}, "kl.beta must be above 0"),
        ("online_dpo", {"loss": "simpo"}, "loss"),
    ],
)
def test_what_the_recipe_may_not_say(tiny: Tiny, algorithm: str, fields: dict[str, Any], says: str):
    given_reward = {"reward": "unread:reward"} if algorithm == "online_dpo" else {}
    with pytest.raises(InputError) as caught:
        stage(algorithm, tiny(), **(given_reward | fields))
    assert says in str(caught.value)


def test_a_margin_that_is_asked_for_must_be_there(tiny: Tiny):
    ctx = given("dpo", tiny, margin="label")
    groups = [replace(g, labels={"ranking": g.labels["ranking"]}) for g in ranked(ctx.template)]
    with pytest.raises(InputError, match="has no margin"):
        selftest(DPO, ctx, groups)
