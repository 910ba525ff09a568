"""Tiny models with tokenizers, as folders on disk, and the runs made of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers.utils import logging as hf_logging

from tether.algorithms import ALGORITHMS
from tether.config import PolicySection
from tether.config.load import parse_stage
from tether.data.bpe import train_tokenizer
from tether.data.steps import stepwise
from tether.data.template import Template
from tether.models.load import load_scalar, resolve_model
from tether.models.save import save_role
from tether.pipeline.sections import sections
from tether.rewards.function import FunctionScorer
from tether.rewards.reward_model import RewardModelScorer
from tether.rollout.native import NativeSampler
from tether.train.checkpoint import seed_everything
from tether.train.context import Context
from tether.train.cursor import Cursor
from tether.train.loop import Run
from tether.train.setup import build_role
from tether.types import Group, Response, RolloutBatch

hf_logging.disable_progress_bar()

TEXT = "hello there how are you today I am fine thank you what is your name the cat sat on the mat"
WORDS = TEXT.split()
VOCAB = 300
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.15}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gemma3_text": LLAMA | {"sliding_window": 6, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen3": LLAMA | {"head_dim": 8},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.15},
    "granite": LLAMA | {"logits_scaling": 4.0},
}

Tiny = Callable[..., str]
"""(architecture, seed, **config) → a folder with a random causal LM and the tokenizer."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    made: dict[str, str] = {}

    def make(name: str = "llama", seed: int = 0, **settings: Any) -> str:
        key = repr((name, seed, sorted(settings.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("models") / name
            tokenizer = train_tokenizer([TEXT] * 3, VOCAB, folder)
            ids = {f"{t}_token_id": getattr(tokenizer, f"{t}_token_id") for t in ("bos", "eos", "pad")}
            off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if name == "gpt2" else {}
            config = hf.AutoConfig.for_model(
                name, **(SIZES.get(name, LLAMA) | off | settings), **ids, vocab_size=len(tokenizer)
            )
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = hf.AutoModelForCausalLM.from_config(config)
                for parameter in model.parameters():
                    parameter.data += 0.05 * torch.randn_like(parameter)
                # In some contexts the end of turn is likely: responses of many lengths, some of them cut.
                model.get_output_embeddings().weight.data[tokenizer.eos_token_id] *= 5
            model.save_pretrained(folder)
            made[key] = str(folder)
        return made[key]

    return make


@pytest.fixture(scope="session")
def reward_folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved reward model with the policy's tokenizer."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    save_role(load_scalar(tiny(seed=5), seed=3), folder, Template.load(tiny()).tokenizer)
    return str(folder)


def stage(algorithm: str, model: str, **fields: Any) -> Any:
    """A section of a recipe, checked as `tether` checks it."""
    given = {"name": "tried", "algorithm": algorithm, "model": model, "data": {"path": "unread.jsonl"}}
    if issubclass(ALGORITHMS[algorithm].config, PolicySection):
        given |= {"reward": "unread:reward", "sampling": {"max_new_tokens": 8}}
    return parse_stage(given | fields, sections())


def context(section: Any, reward: Callable[..., Any] | str | None = None, judge: Any = None, seed: int = 0) -> Context:
    """The context of a stage; `reward` is a Python function or a reward model's folder."""
    specs = ALGORITHMS[section.algorithm].roles(section)
    template = Template.load(section.model, end_of_turn=section.end_of_turn)
    plan = section.train
    roles = {
        name: build_role(spec, resolve_model, device="cpu", dtype=plan.dtype, layout=plan.layout, seed=seed)
        for name, spec in specs.items()
    }
    ctx = Context(section, roles, template, seed, token_budget=plan.token_budget)
    if hasattr(section, "sampling"):
        ctx.sampler = NativeSampler(roles["policy"], template, section.sampling)
    if reward is not None:
        ctx.scorer = scorer(reward)
        ctx.judge = None if judge is None else scorer(judge)
    return ctx


def scorer(reward: Callable[..., Any] | str) -> Any:
    if callable(reward):
        return FunctionScorer(reward)
    return RewardModelScorer(load_scalar(reward, require_head=True).requires_grad_(False))


def run_of(ctx: Context, groups: Sequence[Group], folder: Path) -> Run:
    """A run ready for `train`, seeded as a stage seeds it."""
    folder.mkdir(parents=True, exist_ok=True)
    seed_everything(ctx.seed)
    algorithm = ALGORITHMS[ctx.config.algorithm]
    optims = {name: spec.optim for name, spec in algorithm.roles(ctx.config).items() if spec.optim is not None}
    return Run(algorithm, ctx, Cursor(groups, ctx.seed), optims, folder)


def examples(template: Template, count: int, k: int, seed: int = 0) -> list[Group]:
    """Conversations of random words; with k > 1 responses they are ranked in order, the first the best."""
    source = random.Random(seed)

    def words(most: int) -> str:
        return " ".join(source.choice(WORDS) for _ in range(source.randint(1, most)))

    made = []
    for i in range(count):
        prompt = template.prompt([{"role": "user", "content": words(6)}], {"id": f"p{i}"})
        responses = tuple(template.respond(prompt, words(5)) for _ in range(k))
        made.append(Group(prompt, responses, {"ranking": tuple(range(k))} if k > 1 else {}))
    return made


def examples_for(need: str, template: Template, count: int, seed: int = 0) -> list[Group]:
    """Examples as an algorithm's `data` wants them: of one response where nothing is compared, and labelled."""
    if need == "preference":
        return examples(template, count, 3, seed)
    groups = examples(template, count, 1, seed)
    if need == "prompts":
        return [Group(g.prompt) for g in groups]
    if need == "unpaired":
        return [replace(g, labels={"desirable": i % 3 > 0}) for i, g in enumerate(groups)]
    if need == "steps":
        texts = [[f"{word} {g.responses[0].text}" for word in WORDS[: 1 + i % 3]] for i, g in enumerate(groups)]
        rights = [[(i + n) % 2 == 0 for n in range(len(steps))] for i, steps in enumerate(texts)]
        parts = zip(groups, texts, rights, strict=True)
        return [stepwise(g.prompt, steps, labels, template) for g, steps, labels in parts]
    return groups


def whole(ctx: Context, groups: Sequence[Group]) -> RolloutBatch:
    """All groups as one optimiser step's batch."""
    return ctx.batch(groups)


def token_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Share of a response's tokens with an even id."""
    return [sum(t % 2 == 0 for t in ids) / len(ids) for ids in completion_ids]


def cut(group: Group) -> Group:
    """The group with its responses' ends cut off."""
    return Group(group.prompt, tuple(Response(r.token_ids[:-1], r.text, ended=False) for r in group.responses))
