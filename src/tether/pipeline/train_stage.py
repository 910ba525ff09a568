"""A training stage: load, self-test, train, save."""

from __future__ import annotations

from typing import Any

import torch

from tether.algorithms import ALGORITHMS
from tether.config import PolicySection, TrainSection
from tether.data.report import shared_prompts
from tether.data.template import Template
from tether.models.load import check_tokenizer
from tether.models.reference import ReferenceTable
from tether.models.save import save_role
from tether.pipeline.place import Place, check_same_tokens, tokenizer_hash
from tether.rollout.native import NativeSampler
from tether.train.checkpoint import checkpoints, seed_everything
from tether.train.context import Context
from tether.train.cursor import Cursor
from tether.train.loop import Run, num_steps, train
from tether.train.selftest import selftest
from tether.train.setup import build_role
from tether.types import Algorithm, Group


def train_stage(place: Place, say: Any) -> dict[str, Any]:
    """Trains what the section says, from its newest checkpoint if there is one; returns the manifest's summary."""
    section = place.section
    assert isinstance(section, TrainSection)
    algorithm = ALGORITHMS[section.algorithm]
    seed_everything(place.seed)
    template = Template.load(place.model(section.model), end_of_turn=section.end_of_turn)
    ctx = build_context(place, algorithm, template)
    main = next(iter(ctx.roles.values()))

    need = algorithm.data
    groups = place.groups(section.data, template, main.max_tokens, need, report_as="data")
    held_out: list[Group] = []
    if section.eval_data is not None:
        held_out = place.groups(section.eval_data, template, main.max_tokens, need, report_as="eval_data")
        shared_prompts(groups, held_out)
    mix = algorithm.mix
    if mix is not None and (mixed := mix.data(section)) is not None:
        others = place.groups(mixed, template, main.max_tokens, mix.need, report_as="mix")
        ctx.cursors["mix"] = Cursor(others, place.seed)
    if "reference" in ctx.roles and ctx.sampler is None:
        ctx.known = ReferenceTable(ctx.roles["reference"], ctx.temperature, ctx.token_budget)
        if not ctx.known.fill([*groups, *held_out]):
            say("the reference's log-probs of these examples were known already")
    specs = algorithm.roles(section)
    optims = {name: spec.optim for name, spec in specs.items() if spec.optim is not None}
    run = Run(algorithm, ctx, Cursor(groups, place.seed), optims, place.folder)
    if not checkpoints(place.folder / "checkpoints"):
        passed = selftest(algorithm, ctx, groups)
        say(f"self-test passed: {', '.join(passed)}")
    metrics = train(run, held_out)
    if run.best:
        main.load_state_dict(torch.load(place.folder / "best.pt", map_location="cpu", weights_only=True))
    save_role(main, place.folder / "model", template.tokenizer)
    (place.folder / "tokenizer.hash").write_text(tokenizer_hash(template), encoding="utf-8")
    return {
        "metrics": metrics,
        "examples": len(groups),
        "steps": num_steps(section, len(groups)),
        "parameters": sum(p.numel() for p in main.parameters()),
        "layout": f"{main.layout} ({main.layout_reason})",
    } | ({"kept_step": int(run.best[1])} if run.best else {})


def build_context(place: Place, algorithm: Algorithm, template: Template) -> Context:
    """Roles on their device, and for an algorithm that samples its sampler, its scorer and the held-out judge."""
    section: Any = place.section
    plan = section.train
    specs = algorithm.roles(section)
    for name, spec in specs.items():
        if spec.model != section.model:
            check_same_tokens(f"{name} {spec.model}", place.model(spec.model), template)
    roles = {
        name: build_role(spec, place.model, device=plan.device, dtype=plan.dtype, layout=plan.layout, seed=place.seed)
        for name, spec in specs.items()
    }
    for role in roles.values():
        check_tokenizer(role, len(template.tokenizer))
    ctx = Context(section, roles, template, place.seed, token_budget=plan.token_budget)
    if hasattr(section, "sampling"):
        ctx.sampler = NativeSampler(roles["policy"], template, section.sampling)
    if isinstance(section, PolicySection):
        scorer = {"device": plan.device, "token_budget": plan.token_budget}
        ctx.scorer = place.reward(section.terms, template, **scorer)
        if section.eval_reward is not None:
            ctx.judge = place.scorer(section.eval_reward, template, **scorer)
    return ctx
