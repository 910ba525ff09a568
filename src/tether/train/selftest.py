"""Before the first step: is this set-up one that can be right? If not, refuse, and say why.

Each check returns None or one sentence. They run on the real models and the real data, cost about a second, and leave
every random state as it was. Sources: the issue lists of the field, where each of these ran for days unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from tether.errors import InputError
from tether.models.plan import infer
from tether.train.checkpoint import random_state, set_random_state
from tether.train.context import Context
from tether.types import Algorithm, Group, Response

PROBE = 8
"""Groups looked at."""


def selftest(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> list[str]:
    """Runs every check that applies and returns their names.

    Raises:
        InputError: one check failed; the sentence names the cause.
    """
    before = random_state()
    passed = []
    for check in (dropout_off, stop_token_trained, same_in_any_batch, ratio_one, kl_start, rewards_spread):
        problem = check(algorithm, ctx, groups)
        if problem is not None:
            raise InputError(f"stage '{ctx.config.name}' refused by the self-test ({check.__name__}): {problem}")
        passed.append(check.__name__)
    set_random_state(before)
    return passed


Check = Callable[[Algorithm, Context, Sequence[Group]], str | None]


def tolerance(ctx: Context) -> float:
    """Largest log-prob difference taken for rounding, in nats: by dtype."""
    dtype = next(next(iter(ctx.roles.values())).parameters()).dtype
    return 1e-3 if dtype == torch.float32 else 0.15


def dropout_off(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> str | None:
    """Dropout makes the log-probs of one token differ between two forwards, so that ratios are not 1 and KLs not 0."""
    wanted = {name for name, spec in algorithm.roles(ctx.config).items() if spec.dropout}
    for name, role in ctx.roles.items():
        role.train(True)
        live = [(p, m.p) for p, m in role.named_modules() if isinstance(m, nn.Dropout) and m.p > 0 and m.training]
        role.train(False)
        if live and name not in wanted:
            return (
                f"dropout is on in role '{name}' (module {live[0][0]}, p={live[0][1]}); it must be off, in training too"
            )
    return None


def stop_token_trained(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> str | None:
    """A model whose end-of-turn token is never in the loss never learns to stop."""
    if algorithm.data != "responses":
        return None
    stops = ctx.template.stop_ids
    for group in groups:
        for response in group.responses:
            if any(t in stops for t in trained_tokens(response)):
                return None
    token = ctx.template.decode([ctx.template.end_id]) or str(ctx.template.end_id)
    return (
        f"the end-of-turn token {token!r} (id {ctx.template.end_id}) is in the loss of none of {len(groups)} responses, so "
        "the model would never learn to stop; set `end_of_turn` to the token that closes a turn in this chat template"
    )


def trained_tokens(response: Response) -> list[int]:
    """Token ids of a response that are in the loss."""
    kept = response.trained or (True,) * len(response.token_ids)
    return [t for t, k in zip(response.token_ids, kept, strict=True) if k]


def same_in_any_batch(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> str | None:
    """Log-probs and scores must not depend on which examples share a batch, nor on the layout."""
    probe = probes(ctx, groups)
    for name, role in ctx.roles.items():
        want = {"policy": ("logprobs",), "reward": ("scores",), "value": ("values",)}[role.kind]
        together = infer(role, probe, want, temperature=ctx.temperature)
        alone = [infer(role, [g], want, temperature=ctx.temperature, token_budget=1) for g in probe]
        column = want[0]
        gap = (getattr(together, column) - torch.cat([getattr(a, column) for a in alone])).abs().max().item()
        if not gap <= tolerance(ctx) * 10:
            return (
                f"{column} of role '{name}' change by {gap:.2g} with the examples beside them in the batch "
                f"(layout {role.layout}); they must not depend on batch or padding"
            )
    return None


def probes(ctx: Context, groups: Sequence[Group]) -> list[Group]:
    """A few groups with responses: the data's own, or a short made-up response to its prompts."""
    chosen = list(groups[:PROBE])
    made_up = Response((*(t for g in chosen[:1] for t in g.prompt.token_ids[-4:]), ctx.template.end_id))
    return [g if g.responses else Group(g.prompt, (made_up,)) for g in chosen]


def ratio_one(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> str | None:
    """The sampler's log-probs and the trainer's, of the same weights and tokens, must be one number."""
    if ctx.sampler is None:
        return None
    answered = ctx.sampler.generate([g.prompt for g in groups[:PROBE]], 1, seed=ctx.seed)
    policy = ctx.infer("policy", answered, ("logprobs",)).logprobs
    sampled = policy.new_tensor([p for g in answered for p in g.responses[0].logprobs or ()])
    gap = (policy - sampled).abs().max().item()
    if not gap <= tolerance(ctx):
        return (
            f"before any update the log-ratio of policy to sampler reaches {gap:.2g} where it must be 0: sampler and "
            "trainer disagree on weights, temperature or end-of-turn"
        )
    return None


def kl_start(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> str | None:
    """With `kl.start = 0` the reference is the policy the run starts from."""
    if "reference" not in ctx.roles or ctx.config.kl.start == "any":
        return None
    probe = probes(ctx, groups)
    policy, reference = (ctx.infer(name, probe, ("logprobs",)).logprobs for name in ("policy", "reference"))
    gap = (policy - reference).abs().max().item()
    if not gap <= tolerance(ctx):
        return (
            f"the reference is not the policy the run starts from (log-probs differ by up to {gap:.2g} nats); "
            f'give the same model, or say kl.start = "any"'
        )
    return None


def rewards_spread(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> str | None:
    """A reward that is the same for every response teaches nothing."""
    if ctx.sampler is None or ctx.scorer is None:
        return None
    answered = ctx.sampler.generate([g.prompt for g in groups[: 4 * PROBE]], 2, seed=ctx.seed)
    rewards = ctx.score(answered)
    if not rewards.std(unbiased=False).item() > 0:
        return f"the reward is {rewards[0].item():g} for each of {len(rewards)} sampled responses: there is nothing to learn"
    return None
