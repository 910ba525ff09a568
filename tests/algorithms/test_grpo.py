"""GRPO and its variants: settings, advantages by loops, groups without spread, and whole runs on a toy reward."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, run_of, stage, token_reward

from tether.algorithms.grpo import GRPO, Config, variants
from tether.errors import InputError
from tether.monitor.log import read_events
from tether.train.context import Context
from tether.train.cursor import Cursor
from tether.train.loop import train
from tether.types import Group, RolloutBatch

VARIANTS = list(variants(8))


def section(tiny: Tiny, **fields: Any) -> Config:
    given = {"reward": "unread:reward", "num_responses": 4, "sampling": {"max_new_tokens": 8, "temperature": 0.8}}
    made: Config = stage("grpo", tiny(), **(given | fields))
    return made


def made(tiny: Tiny, reward: Any = token_reward, **fields: Any) -> Context:
    return context(section(tiny, **fields), reward)


def untethered(tiny: Tiny, **fields: Any) -> Context:
    """A run whose reference is another model, so that no KL is 0."""
    kl = {"start": "any"} | fields.pop("kl", {})
    return made(tiny, reference=tiny(seed=1), kl=kl, **fields)


def unlike(ctx: Context, count: int) -> list[Group]:
    """Prompts that all differ."""
    found = {g.prompt.token_ids: Group(g.prompt) for g in examples(ctx.template, 4 * count, 1)}
    return list(found.values())[:count]


def prepared(ctx: Context, groups: list[Group]) -> tuple[RolloutBatch, dict[str, float]]:
    with torch.no_grad():
        batch, metrics = GRPO.prepare(ctx, groups)
    return batch, {name: float(value) for name, value in metrics.items()}


def test_a_variant_is_its_papers_settings(tiny: Tiny):
    def of(variant: str) -> tuple[Any, ...]:
        c = section(tiny, variant=variant)
        return c.loss, c.aggregation, c.scale, c.clip, c.clip_high, c.zero_spread, c.overlong_buffer, c.kl.beta

    assert of("grpo") == ("ppo", "sequence", "std", 0.2, None, "keep", 0, 0.04)
    assert of("dr_grpo") == ("ppo", "constant", "none", 0.2, None, "keep", 0, 0.0)
    assert of("dapo") == ("ppo", "token", "std", 0.2, 0.28, "resample", 1, 0.0)
    assert of("gspo") == ("gspo", "sequence", "std", 3e-4, 4e-4, "keep", 0, 0.0)
    assert of("cispo") == ("cispo", "token", "std", 1.0, 4.0, "keep", 0, 0.0)
    assert all(section(tiny, variant=v).kl.use == "loss" for v in VARIANTS)
    assert all(section(tiny, variant=v).kl.estimator == "k3" for v in VARIANTS)
    assert section(tiny) == section(tiny, variant="grpo")
    assert section(tiny, variant="dapo", sampling={"max_new_tokens": 20480}).overlong_buffer == 4096
    assert section(tiny, variant="dapo", sampling={}).overlong_buffer == 64 // 5


def test_a_given_field_wins_over_the_variant(tiny: Tiny):
    config = section(tiny, variant="dapo", clip_high=0.5, zero_spread="drop", kl={"beta": 0.1}, overlong_buffer=0)
    assert (config.clip_high, config.zero_spread, config.overlong_buffer) == (0.5, "drop", 0)
    assert (config.kl.beta, config.kl.use, config.kl.estimator) == (0.1, "loss", "k3")
    assert config.aggregation == "token"
    # What a manifest holds is what was used, and reads back as the same.
    kept = config.model_dump_json()
    assert '"clip_high":0.5' in kept
    assert '"aggregation":"token"' in kept
    assert Config.model_validate_json(kept) == config


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("use", ["shaping", "loss"])
def test_prepare_against_loops(tiny: Tiny, variant: str, use: str):
    ctx = untethered(tiny, variant=variant, kl={"use": use, "estimator": "k1", "beta": 0.3}, zero_spread="keep")
    batch, metrics = prepared(ctx, unlike(ctx, 5))
    lengths = batch.lengths.tolist()
    kl = [float(x.sum()) for x in (batch.logprobs - batch.ref_logprobs).split(lengths)]
    returns = [float(r) - (0.3 * k if use == "shaping" else 0.0) for r, k in zip(batch.rewards, kl, strict=True)]
    expected = []
    for g in range(5):
        own = returns[4 * g : 4 * g + 4]
        spread = 1.0 if variant == "dr_grpo" else stdev(own) + 1e-4
        expected += [(r - mean(own)) / spread for r in own]
    for s, advantages in enumerate(batch.advantages.split(lengths)):
        assert advantages.tolist() == pytest.approx([expected[s]] * lengths[s], rel=1e-3, abs=1e-4)
    assert metrics["kl/ref"] == pytest.approx(mean(kl), rel=1e-4)
    assert metrics["reward/shaped"] == pytest.approx(mean(returns), rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_before_any_update_nothing_has_moved(tiny: Tiny, variant: str):
    ctx = made(tiny, variant=variant, zero_spread="keep")
    batch, about = prepared(ctx, unlike(ctx, 4))
    objective, metrics = GRPO.loss(ctx, batch)
    assert float(metrics["policy/ratio"]) == pytest.approx(1, abs=1e-5)
    assert float(metrics["policy/approx_kl"]) == pytest.approx(0, abs=1e-7)
    assert float(metrics["policy/clip_frac"]) == 0  # GSPO's range of 3e-4 is wider than rounding too
    assert about["kl/ref"] == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(objective.detach(), metrics["policy/loss"], rtol=0, atol=1e-6)
    assert float(metrics["policy/entropy"]) > 0


def aggregated(config: Config, per_response: list[torch.Tensor]) -> torch.Tensor:
    if config.aggregation == "sequence":
        return torch.stack([x.mean() for x in per_response]).mean()
    if config.aggregation == "constant":
        return torch.cat(per_response).sum() / (len(per_response) * config.sampling.max_new_tokens)
    return torch.cat(per_response).mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_against_loops_over_responses(tiny: Tiny, variant: str):
    """A step away from the policy that sampled, each response alone through the model, each paper's formula."""
    ctx = untethered(tiny, variant=variant, kl={"beta": 0.2}, zero_spread="keep")
    batch, _ = prepared(ctx, unlike(ctx, 4))
    config, role = ctx.config, ctx.roles["policy"]
    generator = torch.Generator().manual_seed(1)
    for parameter in role.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    lengths = batch.lengths.tolist()
    columns = (column.split(lengths) for column in (batch.logprobs, batch.ref_logprobs, batch.advantages))
    responses = [Group(g.prompt, (r,)) for g in batch.groups for r in g.responses]
    losses, kls = [], []
    high = config.clip if config.clip_high is None else config.clip_high
    for group, old, ref, advantage in zip(responses, *columns, strict=True):
        now = role(role.lay_out([group]), ("logprobs",), config.sampling.temperature).logprobs
        if variant == "gspo":
            ratio = ((now - old).sum() / len(now)).exp().expand(len(now))
        else:
            ratio = (now - old).exp()
        held = ratio.clamp(1 - config.clip, 1 + high)
        if variant == "cispo":
            losses.append(-held.detach() * advantage * now)
        else:
            losses.append(torch.maximum(-ratio * advantage, -held * advantage))
        kls.append((ref - now).exp() - (ref - now) - 1)
    expected = aggregated(config, losses) + 0.2 * aggregated(config, kls)
    found, metrics = GRPO.loss(ctx, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (float(metrics["policy/clip_frac"]) > 0) == (variant != "cispo")
    trained = list(role.parameters())
    gradients = [torch.autograd.grad(x, trained, retain_graph=True) for x in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-5)
    parts = [GRPO.loss(ctx, batch.take(members)) for members in ([2, 0], [3, 1])]
    torch.testing.assert_close(sum(objective for objective, _ in parts), found)
    for name, value in metrics.items():
        torch.testing.assert_close(sum(m[name] for _, m in parts), value, msg=name)


def odd_prompts(id: list[str], **_: Any) -> list[float]:
    """0 for every second prompt, whatever the answer; no two answers to the others score the same."""
    return [float(place) if int(name[1:]) % 2 else 0.0 for place, name in enumerate(id)]


def numbered(ctx: Context, count: int) -> list[Group]:
    return [Group(ctx.template.prompt(g.prompt.messages, {"id": f"p{i}"})) for i, g in enumerate(unlike(ctx, count))]


def odd(groups: Any) -> list[str]:
    return [g.prompt.meta["id"] for g in groups if int(g.prompt.meta["id"][1:]) % 2]


def test_groups_without_spread(tiny: Tiny):
    """Kept, they have advantage 0; left out, the batch is the others alone; drawn anew, it is full again."""
    found = {}
    for choice in ("keep", "drop", "resample"):
        ctx = made(tiny, odd_prompts, zero_spread=choice)
        groups = numbered(ctx, 20)
        ctx.cursors["data"] = Cursor(groups[6:], seed=0)
        found[choice], metrics = prepared(ctx, groups[:6])
        assert metrics["reward/zero_spread"] == pytest.approx(0.5, abs=0.25 if choice == "resample" else 0.0)
        assert metrics["rollout/groups"] >= (7 if choice == "resample" else 6)
    kept, dropped, full = (found[choice] for choice in ("keep", "drop", "resample"))
    assert [float(kept.take([g]).advantages.abs().max()) > 0 for g in range(6)] == [False, True] * 3
    assert [g.prompt.meta["id"] for g in dropped.groups] == ["p1", "p3", "p5"]
    assert odd(full.groups) == [g.prompt.meta["id"] for g in full.groups]
    assert len(full.groups) == len(set(odd(full.groups))) == 6
    torch.testing.assert_close(dropped.advantages, kept.take([1, 3, 5]).advantages)
    torch.testing.assert_close(full.take([0, 1, 2]).ref_logprobs, dropped.ref_logprobs)
    torch.testing.assert_close(ctx.infer("reference", full.groups, ("logprobs",)).logprobs, full.ref_logprobs)


def test_resampling_stops_and_steers_once(tiny: Tiny):
    kl = {"controller": "adaptive", "target": 0.1, "horizon": 50, "start": "any", "beta": 0.5}
    states, counts = [], []
    for choice in ("keep", "resample"):
        ctx = made(tiny, odd_prompts, zero_spread=choice, max_draws=1, kl=kl, reference=tiny(seed=1))
        groups = [g for g in numbered(ctx, 20) if not odd([g])]
        ctx.cursors["data"] = Cursor(groups, seed=0)
        batch, metrics = prepared(ctx, groups[:4])
        assert metrics["reward/zero_spread"] == 1
        assert float(batch.advantages.abs().max()) == 0  # nothing to learn, so the batch is what it is
        states.append(ctx.state)
        counts.append(metrics["rollout/groups"])
    assert states[0] == states[1]
    assert states[0]["next_beta"] != states[0]["beta"] == 0.5
    assert counts[0] == 4
    assert 4 < counts[1] <= 8  # prompts that were answered already are passed over


def learn(tiny: Tiny, folder: Path, steps: int = 8, **fields: Any) -> list[dict[str, Any]]:
    plan = {"steps": steps, "batch_size": 8, "mini_batch_size": 4, "mini_epochs": 2}
    ctx = made(tiny, optim={"lr": 5e-3}, train=plan, **fields)
    train(run_of(ctx, [Group(g.prompt) for g in examples(ctx.template, 48, 1)], folder), [])
    return [e for e in read_events(folder) if e["kind"] == "train"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_toy_reward_is_learnt(tiny: Tiny, tmp_path: Path, variant: str):
    # Made for thousands of tokens, and these replies have eight: GSPO's clip, and DAPO's punishment, which the proxy
    # does not show.
    fields = {"gspo": {"clip": 0.2, "clip_high": 0.2}, "dapo": {"overlong_buffer": 0}}.get(variant, {})
    events = learn(tiny, tmp_path, variant=variant, **fields)
    proxy = [e["reward/proxy"] for e in events]
    error = (2 * events[0]["reward/std"] ** 2 / 64) ** 0.5
    assert mean(proxy[-2:]) - mean(proxy[:2]) > 5 * error
    assert events[-1]["kl/ref"] > 0.1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_responses": 1}, "num_responses"),
        ({"variant": "grop"}, "variant: got 'grop'"),
        ({"variant": "dapo", "loss": "reinforce"}, "loss: got 'reinforce'"),
        ({"variant": "dapo", "kl": {"bta": 1}}, "did you mean 'beta'?"),
        ({"variant": "dapo", "kl": 3}, "kl: got 3"),
        ({"sampling": 3}, "sampling: got 3"),
        ({"sampling": {"top_k": 3}}, "top_k and sampling.top_p change the sampled distribution"),
        ({"clip": 0.0}, "clip"),
        ({"zero_spread": "skip"}, "zero_spread"),
    ],
)
def test_what_the_recipe_may_not_say(tiny: Tiny, fields: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        section(tiny, **fields)
    assert says in str(caught.value)
