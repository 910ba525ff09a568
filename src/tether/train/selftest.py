"""Before the first step: is this set-up one that can be right? If not, refuse, and say why.

A check passes, does not apply, or returns one sentence. Checks run on the real models and the real data, cost about a
second on a small model, and leave every random state as it was. Sources: the issue lists of the field, where each of
these ran for days unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tether.errors import InputError
from tether.math.preference_losses import ranking_pairs
from tether.models.plan import infer
from tether.models.role import Role
from tether.train.checkpoint import random_state, set_random_state
from tether.train.context import Context
from tether.types import Algorithm, Group, Response

PROBE = 8
"""Groups whose log-probs are looked at."""
PROMPTS = 32
"""Prompts answered, twice each, by an algorithm that samples."""


class Case(NamedTuple):
    """What a check looks at."""

    algorithm: Algorithm
    ctx: Context
    groups: Sequence[Group]
    """All training examples."""
    answered: Sequence[Group]
    """Two sampled answers to each of a few prompts; empty where nothing samples."""

    def probes(self) -> list[Group]:
        """A few groups with responses: sampled ones, or the data's own."""
        return list((self.answered or self.groups)[:PROBE])


class Outcome(Enum):
    """Of a check that found nothing wrong."""

    PASSED = "passed"
    DOES_NOT_APPLY = "does not apply"


Check = Callable[[Case], Outcome | str]


def selftest(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> list[str]:
    """Runs every check and returns the names of those that applied.

    Raises:
        InputError: one check failed; the sentence names the cause.
    """
    before = random_state()
    passed = []
    try:
        answered: Sequence[Group] = ()
        if ctx.sampler is not None:
            answered = ctx.sampler.generate([g.prompt for g in groups[:PROMPTS]], 2, seed=ctx.seed)
        case = Case(algorithm, ctx, groups, answered)
        for check in CHECKS:
            outcome = check(case)
            if isinstance(outcome, str):
                raise InputError(f"stage '{ctx.config.name}' refused by the self-test ({check.__name__}): {outcome}")
            if outcome is Outcome.PASSED:
                passed.append(check.__name__)
    finally:
        set_random_state(before)
    return passed


def dropout_off(case: Case) -> Outcome | str:
    """Dropout makes the log-probs of one token differ between two forwards, so that ratios are not 1 and KLs not 0."""
    wanted = {name for name, spec in case.algorithm.roles(case.ctx.config).items() if spec.dropout}
    for name, role in case.ctx.roles.items():
        if name in wanted:
            continue
        still = forward(case, role, case.probes()[:2])
        found = next(live_dropout(role), None)  # as it was loaded, and as the loop will set it
        role.train(True)
        found = found or next(live_dropout(role), None)
        gap = distance(role, forward(case, role, case.probes()[:2]), still)
        role.train(False)
        if found:
            return (
                f"dropout is on in role '{name}' (module {found[0]}, p={found[1]:g}); it must be off in every role, "
                "in training too"
            )
        if not gap <= tolerance(role):
            return f"role '{name}' gives other {WANT[role.kind]} in training than in evaluation (by {gap:.2g})"
    return Outcome.PASSED


def live_dropout(role: Role) -> Iterator[tuple[str, float]]:
    """Where dropout acts now, and its rate: dropout modules, and rates that a module passes to a function."""
    for path, module in role.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd):
            rates = [module.p]
        else:
            rates = [rate for name, rate in vars(module).items() if "drop" in name and isinstance(rate, float)]
        yield from ((path or "the model itself", rate) for rate in rates if rate > 0)


def same_in_any_batch(case: Case) -> Outcome | str:
    """Outputs must not depend on which examples share a batch, nor on the layout."""
    probes = case.probes()
    alone = [Group(g.prompt, (r,)) for g in probes for r in g.responses]
    for name, role in case.ctx.roles.items():
        together = forward(case, role, probes)
        if not together.isfinite().all():
            return f"role '{name}' gives {WANT[role.kind]} that are not finite: its weights are damaged"
        gap = distance(role, torch.cat([forward(case, role, [g]) for g in alone]), together)
        if not gap <= tolerance(role) * max(1.0, together.abs().max().item()):
            return (
                f"{WANT[role.kind]} of role '{name}' change by {gap:.2g} with the examples beside them in the batch "
                f"(layout {role.layout}); they must not depend on batch, padding or layout"
            )
    return Outcome.PASSED


def stop_token_trained(case: Case) -> Outcome | str:
    """A model whose end-of-turn token is never in the loss never learns to stop."""
    if case.algorithm.data != "responses":
        return Outcome.DOES_NOT_APPLY
    template = case.ctx.template
    stops = template.stop_ids if case.ctx.config.end_of_turn is None else {template.end_id}
    responses = [r for g in case.groups for r in g.responses]
    if any(token in stops for r in responses for token in trained_tokens(r)):
        return Outcome.PASSED
    token = template.decode([template.end_id], special=True)
    cut = sum(not r.ended for r in responses)
    if cut == len(responses):
        cause = "every response was cut before its end; raise data.max_tokens, or set data.on_too_long to drop"
    elif any(t in stops for r in responses for t in r.token_ids):
        cause = "it stands in responses, but outside what is trained"
    else:
        cause = "set end_of_turn to the token that closes a turn in this data"
    return (
        f"the end-of-turn token {token!r} (id {template.end_id}) is in the loss of none of {len(responses)} responses, "
        f"so the model would never learn to stop: {cause}"
    )


def trained_tokens(response: Response) -> list[int]:
    """Token ids of a response that are in the loss."""
    kept = response.trained or (True,) * len(response.token_ids)
    return [t for t, k in zip(response.token_ids, kept, strict=True) if k]


def comparisons_labelled(case: Case) -> Outcome | str:
    """A group that ranks nothing above anything teaches nothing; a margin that is asked for must be there."""
    if case.algorithm.data != "preference":
        return Outcome.DOES_NOT_APPLY
    for i, group in enumerate(case.groups):
        name = group.prompt.meta.get("id", f"number {i}")
        if not ranking_pairs(group.labels["ranking"]):
            return f"the ranking of group {name} puts no response above another; leave such groups out"
        if getattr(case.ctx.config, "margin", None) == "label" and "margin" not in group.labels:
            return f'margin = "label", but group {name} has no margin; give every row one, or say margin = "none"'
    return Outcome.PASSED


def ratio_one(case: Case) -> Outcome | str:
    """The sampler's log-probs and the trainer's, of the same weights and tokens, must be one number."""
    if not case.answered:
        return Outcome.DOES_NOT_APPLY
    answered = case.answered[:PROBE]
    policy = forward(case, case.ctx.roles["policy"], answered)
    sampled = policy.new_tensor([p for g in answered for r in g.responses for p in r.logprobs or ()])
    gap = distance(case.ctx.roles["policy"], policy, sampled)
    if not gap <= tolerance(case.ctx.roles["policy"]):
        return (
            f"before any update the log-ratio of policy to sampler is {gap:.2g} where it must be 0: sampler and "
            "trainer disagree on weights, temperature or end-of-turn"
        )
    return Outcome.PASSED


def kl_start(case: Case) -> Outcome | str:
    """With `kl.start = 0`, or where no `reference` is named, the reference is the policy the run starts from."""
    roles, config = case.ctx.roles, case.ctx.config
    if "reference" not in roles or (config.kl.start == "any" if hasattr(config, "kl") else config.reference):
        return Outcome.DOES_NOT_APPLY
    policy, reference = (forward(case, roles[name], case.probes()) for name in ("policy", "reference"))
    gap = distance(roles["policy"], policy, reference)
    # The same weights by the same path: the same bits, but for kernels that choose by memory address.
    if not gap <= tolerance(roles["policy"]) / 10:
        return (
            f"the reference is not the policy the run starts from (log-probs differ by {gap:.2g} nats); "
            'give the same model, or say kl.start = "any"'
        )
    return Outcome.PASSED


def rewards_spread(case: Case) -> Outcome | str:
    """A reward that is the same for every response teaches nothing."""
    if not case.answered or case.ctx.scorer is None:
        return Outcome.DOES_NOT_APPLY
    rewards = case.ctx.score(case.answered)
    if not bool((rewards != rewards[0]).any()):
        return (
            f"the reward is {rewards[0].item():g} for each of {len(rewards)} sampled responses: nothing to learn from"
        )
    return Outcome.PASSED


CHECKS: tuple[Check, ...] = (
    dropout_off,
    same_in_any_batch,
    stop_token_trained,
    comparisons_labelled,
    ratio_one,
    kl_start,
    rewards_spread,
)
"""In this order: a later check may rest on an earlier one."""

WANT = {"policy": "logprobs", "reward": "scores", "value": "values"}
"""Kind of role → the output that is compared."""


def forward(case: Case, role: Role, groups: Sequence[Group]) -> Tensor:
    """The role's own output for `groups`, flat, without gradient, at the run's temperature."""
    want = WANT[role.kind]
    ctx = case.ctx
    out = infer(role, groups, (want,), temperature=ctx.temperature, token_budget=ctx.token_budget)
    column: Tensor = getattr(out, want)
    return column


def distance(role: Role, one: Tensor, other: Tensor) -> float:
    """How far two outputs of a role are apart, to be held against `tolerance`; infinite where one is not a number.

    The largest difference in fp32; the mean in half precision, where single unlikely tokens round far apart.
    """
    gap = (one - other).abs().nan_to_num(nan=math.inf)
    return (gap.max() if exact(role) else gap.mean()).item()


def tolerance(role: Role) -> float:
    """What is taken for rounding, in nats. (Measured: 3e-6 at most in fp32, 0.005 on average in bf16.)"""
    return 1e-3 if exact(role) else 0.03


def exact(role: Role) -> bool:
    """Whether the role computes in full precision."""
    return next(role.parameters()).dtype == torch.float32
