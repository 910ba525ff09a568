"""PPO against an implementation with padding and masks that shares no code with the package but the models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, stage, token_reward
from torch import Tensor

from tether.algorithms.ppo import PPO
from tether.errors import InputError
from tether.models.load import load_scalar
from tether.train.context import Context
from tether.types import Group, RolloutBatch

SAMPLING = {"max_new_tokens": 8, "temperature": 0.8}


def made(tiny: Tiny, architecture: str = "llama", reward: Any = token_reward, **fields: Any) -> Context:
    return context(stage("ppo", tiny(architecture), **({"sampling": SAMPLING} | fields)), reward)


def untethered(tiny: Tiny, **fields: Any) -> Context:
    """A run whose reference is another model, so that no KL is 0."""
    kl = {"start": "any", "beta": 0.3} | fields.pop("kl", {})
    return made(tiny, reference=tiny(seed=1), kl=kl, **fields)


def prepared(ctx: Context, count: int = 6) -> tuple[RolloutBatch, dict[str, float]]:
    with torch.no_grad():
        batch, metrics = PPO.prepare(ctx, [Group(g.prompt) for g in examples(ctx.template, count, 1)])
    return batch, {name: float(value) for name, value in metrics.items()}


# The other implementation: right-padded rows, full logits, a mask in every mean.


class Padded:
    """The rows of a batch of responses: (B, T) of the responses alone, left-aligned."""

    def __init__(self, ctx: Context, groups: tuple[Group, ...]) -> None:
        self.ctx, self.config = ctx, ctx.config
        self.pairs = [(g.prompt, r) for g in groups for r in g.responses]
        self.lengths = [len(r.token_ids) for _, r in self.pairs]
        width = max(self.lengths)
        self.mask = torch.arange(width) < torch.tensor(self.lengths)[:, None]
        self.tokens = torch.zeros(len(self.pairs), width, dtype=torch.long)
        for row, (_, response) in enumerate(self.pairs):
            self.tokens[row, : len(response.token_ids)] = torch.tensor(response.token_ids)

    def mean(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, 0.0).sum() / self.mask.sum()

    def states(self, role: str) -> tuple[Tensor, Tensor | None]:
        """(B, T, d) last hidden states before each response token, and its logits (B, T, V)."""
        rows = [(*p.token_ids, *r.token_ids) for p, r in self.pairs]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        model = self.ctx.roles[role].hf
        hidden = model.model(input_ids=ids, attention_mask=seen, use_cache=False)[0]
        first = torch.tensor([len(p.token_ids) - 1 for p, _ in self.pairs])
        places = (first[:, None] + torch.arange(self.tokens.shape[1])).clamp(max=longest - 1)
        hidden = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return hidden, model.lm_head(hidden) / SAMPLING["temperature"] if hasattr(model, "lm_head") else None

    def logprobs(self, role: str) -> tuple[Tensor, Tensor]:
        """(B, T) of the tokens, and the entropies."""
        logits = self.states(role)[1]
        assert logits is not None
        probs = logits.softmax(-1)
        picked = probs.gather(2, self.tokens[:, :, None])[:, :, 0].log()
        return picked, -(probs * probs.log()).sum(-1)

    def values(self) -> Tensor:
        if self.config.value.model == "shared":
            return self.states("policy")[0] @ self.ctx.roles["policy"].scalar_head.weight[0]
        return self.states("value")[0] @ self.ctx.roles["value"].hf.score.weight[0]

    def kl(self, logprobs: Tensor, ref: Tensor) -> Tensor:
        r = ref - logprobs
        return {"k1": -r, "k2": r * r / 2, "k3": r.exp() - 1 - r}[self.config.kl.estimator]

    def prepare(self) -> dict[str, Tensor]:
        config, mask = self.config, self.mask
        old, ref, values = self.logprobs("policy")[0], self.logprobs("reference")[0], self.values()
        scores = [float(x) for x in token_reward([list(r.token_ids) for _, r in self.pairs])]
        rewards = torch.zeros(mask.shape)
        if config.kl.use == "shaping":
            rewards = -config.kl.beta * torch.where(mask, self.kl(old, ref), 0.0)
        for row, (_, response) in enumerate(self.pairs):
            if response.token_ids[-1] != self.ctx.template.end_id:
                if config.missing_end == "penalty":
                    scores[row] -= config.missing_end_value
                elif config.missing_end == "replace":
                    scores[row] = config.missing_end_value
            rewards[row, self.lengths[row] - 1] += scores[row]
        if config.whiten_rewards:
            mean = self.mean(rewards)
            rewards = (rewards - mean) / (self.mean((rewards - mean) ** 2) + 1e-8).sqrt() + mean
        advantages = torch.zeros(mask.shape)
        for row, length in enumerate(self.lengths):
            for t in range(length):  # the sum that defines GAE, not its recursion
                for later in range(t, length):
                    after = values[row, later + 1] if later + 1 < length else 0.0
                    delta = rewards[row, later] + config.gamma * after - values[row, later]
                    advantages[row, t] += (config.gamma * config.lam) ** (later - t) * delta
        returns = advantages + values
        if config.whiten_advantages:
            mean = self.mean(advantages)
            advantages = (advantages - mean) / (self.mean((advantages - mean) ** 2) + 1e-8).sqrt()
        return {
            "logprobs": old,
            "ref_logprobs": ref,
            "values": values,
            "token_rewards": rewards,
            "advantages": advantages,
            "returns": returns,
        }

    def loss(self, old: dict[str, Tensor]) -> dict[str, Tensor]:
        config = self.config
        logprobs, entropy = self.logprobs("policy")
        values = self.values()
        ratio = (logprobs - old["logprobs"]).exp()
        high = 1 + (config.clip_high or config.clip)
        losses = -old["advantages"] * ratio, -old["advantages"] * ratio.clamp(1 - config.clip, high)
        errors = (values - old["returns"]) ** 2
        moved = values - old["values"]
        if config.value.clip:
            held = old["values"] + moved.clamp(-config.value.clip, config.value.clip)
            errors = torch.maximum(errors, (held - old["returns"]) ** 2)
        found = {
            "policy/loss": self.mean(torch.maximum(*losses)),
            "policy/entropy": self.mean(entropy),
            "policy/clip_frac": self.mean((losses[1] > losses[0]).float()),
            "policy/approx_kl": self.mean(ratio - 1 - ratio.log()),
            "policy/ratio": self.mean(ratio),
            "value/loss": self.mean(errors) / 2,
            "value/clip_frac": self.mean((moved.abs() > (config.value.clip or torch.inf)).float()),
        }
        objective = found["policy/loss"] + config.value.coef * found["value/loss"]
        objective = objective - config.entropy_coef * found["policy/entropy"]
        if config.kl.use == "loss":
            objective = objective + config.kl.beta * self.mean(self.kl(logprobs, old["ref_logprobs"]))
        return {"objective": objective} | found


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "k2 shaping": {"kl": {"estimator": "k2"}},
    "k3 shaping": {"kl": {"estimator": "k3"}},
    "k1 loss": {"kl": {"estimator": "k1", "use": "loss"}},
    "k2 loss": {"kl": {"estimator": "k2", "use": "loss"}},
    "k3 loss": {"kl": {"estimator": "k3", "use": "loss"}},
    "shared trunk": {"value": {"model": "shared", "coef": 0.3}},
    "penalty": {"missing_end": "penalty", "missing_end_value": 0.7},
    "replace": {"missing_end": "replace", "missing_end_value": -1.0},
    "whitened rewards": {"whiten_rewards": True, "whiten_advantages": False},
    "no value clip": {"value": {"clip": 0.0}, "gamma": 0.97, "lam": 0.8},
    "clip higher": {"clip": 0.1, "clip_high": 0.4, "value": {"clip": 0.05}},
    "entropy bonus": {"entropy_coef": 0.5, "num_responses": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_prepare_and_loss_against_padded_rows(tiny: Tiny, name: str):
    ctx = untethered(tiny, **OPTIONS[name])
    batch, _ = prepared(ctx)
    padded = Padded(ctx, batch.groups)
    ended = [r.ended for _, r in padded.pairs]
    assert any(ended)
    assert not all(ended)  # so that the rule for a missing end shows
    with torch.no_grad():
        expected = padded.prepare()
    for column, values in expected.items():
        torch.testing.assert_close(getattr(batch, column), values[padded.mask], rtol=1e-3, atol=2e-5, msg=column)

    generator = torch.Generator().manual_seed(1)
    trained = [p for n in ("policy", "value") if n in ctx.roles for p in ctx.roles[n].parameters()]
    for parameter in trained:  # a step away, where the clips bite
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    wanted = padded.loss(expected)
    objective, metrics = PPO.loss(ctx, batch)
    for metric, value in wanted.items():
        found = objective if metric == "objective" else metrics[metric]
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5, msg=lambda m, n=metric: f"{n}: {m}")
    assert 0 < float(metrics["policy/clip_frac"]) < 1
    gradients = [torch.autograd.grad(x, trained, allow_unused=True) for x in (objective, wanted["objective"])]
    for one, other in zip(*gradients, strict=True):
        if one is None or other is None:
            assert one is other
            continue
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "qwen3", "bloom", "granite"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("layout", ["rows", "auto"])
def test_before_any_update_nothing_has_moved(tiny: Tiny, architecture: str, temperature: float, layout: Any):
    sampling = {"max_new_tokens": 6, "temperature": temperature}
    ctx = made(tiny, architecture, sampling=sampling, num_responses=2, train={"layout": layout})
    batch, about = prepared(ctx, 5)
    metrics = PPO.loss(ctx, batch)[1]
    assert float(metrics["policy/ratio"]) == pytest.approx(1, abs=1e-5)
    assert float(metrics["policy/approx_kl"]) == pytest.approx(0, abs=1e-7)
    assert float(metrics["policy/clip_frac"]) == 0
    assert float(metrics["value/clip_frac"]) == 0
    assert about["kl/ref"] == pytest.approx(0, abs=1e-5)
    assert float(metrics["policy/entropy"]) > 0


def test_shares_of_micro_batches_add_up(tiny: Tiny):
    ctx = untethered(tiny, num_responses=2, entropy_coef=0.1)
    batch, _ = prepared(ctx)
    together, metrics = PPO.loss(ctx, batch)
    parts = [PPO.loss(ctx, batch.take(members)) for members in ([4, 0], [5], [1, 2, 3])]
    torch.testing.assert_close(sum(loss for loss, _ in parts), together)
    for name, value in metrics.items():
        torch.testing.assert_close(sum(m[name] for _, m in parts), value, msg=name)


def test_adaptive_beta_by_hand(tiny: Tiny):
    kl = {"controller": "adaptive", "beta": 0.5, "target": 6.0, "horizon": 60, "use": "loss", "estimator": "k2"}
    ctx = untethered(tiny, kl=kl)
    beta = 0.5
    for step in range(4):
        ctx.step = step
        batch, metrics = prepared(ctx, 6)
        assert metrics["kl/beta"] == pytest.approx(beta)
        # The loss of this iteration uses the β that is logged for it, not the next one.
        objective, about = PPO.loss(ctx, batch)
        l2 = 0.5 * (batch.logprobs - batch.ref_logprobs).square().mean()
        rest = about["policy/loss"] + 0.5 * about["value/loss"]
        assert float(objective.detach() - rest) == pytest.approx(beta * float(l2), rel=1e-3)
        log_ratio = (batch.logprobs - batch.ref_logprobs).split(batch.lengths.tolist())
        measured = sum(float(x.sum()) for x in log_ratio) / 6
        assert metrics["kl/ref"] == pytest.approx(measured, rel=1e-4)
        beta *= 1 + max(-0.2, min(0.2, measured / 6.0 - 1)) * 6 / 60
        if step == 1:  # as a checkpoint would
            ctx.state = dict(ctx.state)


def test_the_value_model_starts_with_the_reward_models_head(tiny: Tiny, reward_folder: str):
    for value in ({"model": "reward"}, {"model": reward_folder}):
        ctx = context(stage("ppo", tiny(), reward=reward_folder, value=value), reward_folder)
        reward = load_scalar(reward_folder, require_head=True)
        assert torch.equal(ctx.roles["value"].scalar.weight, reward.scalar.weight)
        groups = examples(ctx.template, 4, 2)
        # The value before a token is what the reward model says of the tokens up to there.
        ahead = ctx.infer("value", groups, ("scores",)).scores
        torch.testing.assert_close(ahead, context_scores(reward, groups))
    own = made(tiny)
    assert not torch.equal(own.roles["value"].scalar.weight, reward.scalar.weight)


def context_scores(reward: Any, groups: list[Group]) -> Tensor:
    return torch.cat([reward(reward.lay_out([g]), ("scores",)).scores.detach() for g in groups])


def test_which_weights_learn(tiny: Tiny):
    ctx = made(tiny, value={"model": "shared"})
    assert set(ctx.roles) == {"policy", "reference"}
    assert all(p.requires_grad for p in ctx.roles["policy"].parameters())
    assert not any(p.requires_grad for p in ctx.roles["reference"].parameters())
    batch, _ = prepared(ctx)
    PPO.loss(ctx, batch)[0].backward()
    assert float(ctx.roles["policy"].scalar_head.weight.grad.abs().sum()) > 0
    own = made(tiny, value={"optim": {"lr": 0.25}})
    assert PPO.roles(own.config)["value"].optim.lr == 0.25
    assert PPO.roles(made(tiny, optim={"lr": 0.125}).config)["value"].optim.lr == 0.125


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sampling": {"top_k": 5}}, "top_k and sampling.top_p change the sampled distribution"),
        ({"sampling": {"top_p": 0.9}}, "top_k and sampling.top_p change the sampled distribution"),
        ({"sampling": {"temperature": 0.0}}, "sampling.temperature"),
        ({"kl": {"beta": -0.1}}, "kl.beta"),
        ({"kl": {"start": 1}}, "kl.start"),
        ({"kl": {"estimator": "k4"}}, "k4"),
        ({"clip": 0.0}, "clip"),
        ({"gamma": 1.1}, "gamma"),
        ({"target_kl": 0.0}, "target_kl"),
        ({"missing_end": "ignore"}, "missing_end"),
        ({"value": {"model": "reward"}}, "reward names the function 'unread:reward'"),
        ({"train": {"keep": "best"}, "eval_data": {"path": "x"}}, "never chosen by the training reward"),
        ({"train": {"keep": "best"}, "eval_reward": "a:b"}, "needs eval_data"),
    ],
)
def test_what_the_recipe_may_not_say(tiny: Tiny, fields: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        stage("ppo", tiny(), **fields)
    assert says in str(caught.value)
