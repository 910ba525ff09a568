"""The self-test: refuses set-ups that cannot be right with the sentence that says why, passes those that can."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.train.conftest import Tiny, context, cut, examples, stage, token_reward
from torch import nn
from transformers import AutoTokenizer

from tether.algorithms import ALGORITHMS
from tether.config import DataConfig, SamplingConfig
from tether.data.load import load_groups
from tether.data.template import Template
from tether.errors import InputError
from tether.models.load import load_policy, load_scalar
from tether.models.save import save_role
from tether.pipeline.run import run_single
from tether.rollout.native import NativeSampler
from tether.train.context import Context
from tether.train.selftest import selftest
from tether.types import Group, Response


def passed(ctx: Context, groups: list[Group]) -> list[str]:
    return selftest(ALGORITHMS[ctx.config.algorithm], ctx, groups)


def prompts(ctx: Context, count: int = 12) -> list[Group]:
    return [Group(g.prompt) for g in examples(ctx.template, count, 1)]


def ppo(tiny: Tiny, architecture: str = "llama", reward: Any = token_reward, **fields: Any) -> Context:
    return context(stage("ppo", tiny(architecture), **fields), reward)


def refusal(ctx: Context, groups: list[Group]) -> str:
    with pytest.raises(InputError) as caught:
        passed(ctx, groups)
    return str(caught.value)


# What passes


def test_healthy_set_ups_pass_the_checks_that_apply(tiny: Tiny, reward_folder: str):
    sft = context(stage("sft", tiny()))
    assert passed(sft, examples(sft.template, 12, 1)) == ["dropout_off", "same_in_any_batch", "stop_token_trained"]
    rm = context(stage("reward_model", tiny()))
    assert passed(rm, examples(rm.template, 12, 2)) == ["dropout_off", "same_in_any_batch", "comparisons_labelled"]
    lm = context(stage("lm", tiny()))
    assert passed(lm, examples(lm.template, 12, 1)) == ["dropout_off", "same_in_any_batch"]
    sampling = ["dropout_off", "same_in_any_batch", "ratio_one", "kl_start", "rewards_spread"]
    for value in ("policy", "shared", reward_folder):
        ctx = ppo(tiny, reward=reward_folder, value={"model": value})
        assert passed(ctx, prompts(ctx)) == sampling


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3_text", "qwen3", "bloom", "granite"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_ratio_one_and_kl_zero_on_every_architecture(tiny: Tiny, architecture: str, temperature: float):
    sampling = {"max_new_tokens": 8, "temperature": temperature}
    ctx = ppo(tiny, architecture, sampling=sampling)
    assert {"ratio_one", "kl_start"} <= set(passed(ctx, prompts(ctx, 4)))


def test_an_untethered_start_is_allowed_when_said(tiny: Tiny):
    ctx = ppo(tiny, reference=tiny(seed=1), kl={"start": "any"})
    assert "kl_start" not in passed(ctx, prompts(ctx))


def test_dropout_is_allowed_where_the_recipe_asks_for_it(tiny: Tiny):
    ctx = context(stage("reward_model", tiny("gpt2", resid_pdrop=0.1), dropout=True))
    assert "dropout_off" in passed(ctx, examples(ctx.template, 8, 2))


def test_random_states_and_modes_are_left_alone_and_it_is_quick(tiny: Tiny):
    def noisy_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [random.random() + np.random.rand() + torch.rand(1).item() for _ in completion_ids]

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    def seed() -> None:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    ctx = ppo(tiny, reward=noisy_reward)
    groups = prompts(ctx, 40)
    seed()
    expected = draw()
    seed()
    began = time.process_time()
    passed(ctx, groups)
    assert time.process_time() - began < 3
    assert draw() == expected
    assert not any(module.training for role in ctx.roles.values() for module in role.modules())
    ctx.roles["reference"].hf.lm_head.weight.data.mul_(2)
    seed()
    refusal(ctx, groups)
    assert draw() == expected


# What is refused: the tether


def test_a_reference_that_is_not_the_start_policy(tiny: Tiny):
    ctx = ppo(tiny, reference=tiny(seed=1))
    found = refusal(ctx, prompts(ctx))
    assert "(kl_start): the reference is not the policy the run starts from" in found
    assert 'kl.start = "any"' in found


def test_a_reference_one_small_step_away(tiny: Tiny):
    ctx = ppo(tiny)
    weight = ctx.roles["reference"].hf.model.layers[0].mlp.up_proj.weight
    weight.data += 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    assert "the reference is not the policy" in refusal(ctx, prompts(ctx))


def test_sampler_and_trainer_at_different_temperatures(tiny: Tiny):
    ctx = ppo(tiny)
    ctx.sampler = NativeSampler(ctx.roles["policy"], ctx.template, SamplingConfig(temperature=0.7, max_new_tokens=8))
    found = refusal(ctx, prompts(ctx))
    assert "(ratio_one): before any update the log-ratio of policy to sampler is" in found
    assert "temperature" in found


def test_a_sampler_with_old_weights(tiny: Tiny):
    ctx = ppo(tiny)
    ctx.sampler = NativeSampler(load_policy(tiny(seed=1)), ctx.template, ctx.config.sampling)
    assert "disagree on weights" in refusal(ctx, prompts(ctx))


def test_a_constant_reward(tiny: Tiny):
    ctx = ppo(tiny, reward=lambda completions, **_: [0.5] * len(completions))
    assert "(rewards_spread): the reward is 0.5 for each of 24 sampled responses" in refusal(ctx, prompts(ctx))


def test_half_precision_is_judged_by_what_it_can_hold(tiny: Tiny):
    half = {"train": {"dtype": "bfloat16"}}
    ctx = ppo(tiny, **half)
    assert {"same_in_any_batch", "ratio_one", "kl_start"} <= set(passed(ctx, prompts(ctx)))
    ctx.sampler = NativeSampler(ctx.roles["policy"], ctx.template, SamplingConfig(temperature=0.9, max_new_tokens=8))
    assert "(ratio_one)" in refusal(ctx, prompts(ctx))
    ctx = ppo(tiny, reference=tiny(seed=1), **half)
    assert "(kl_start)" in refusal(ctx, prompts(ctx))


# What is refused: the models


def test_a_module_left_in_training(tiny: Tiny):
    ctx = ppo(tiny, "gpt2")
    dropout = ctx.roles["reference"].hf.transformer.h[1].mlp.dropout
    dropout.p = 0.1
    assert "dropout_off" in passed(ctx, prompts(ctx))  # a rate that never acts
    dropout.train()
    found = refusal(ctx, prompts(ctx))
    assert "(dropout_off): dropout is on in role 'reference'" in found
    assert "h.1.mlp.dropout, p=0.1" in found


@pytest.mark.parametrize(
    ("architecture", "setting"), [("gpt2", "resid_pdrop"), ("gpt2", "attn_pdrop"), ("llama", "attention_dropout")]
)
def test_a_policy_loaded_with_dropout(tiny: Tiny, architecture: str, setting: str):
    ctx = ppo(tiny, architecture)
    with_dropout = load_policy(tiny(architecture, **{setting: 0.1}), dropout=True)
    with_dropout.load_state_dict(ctx.roles["policy"].state_dict())
    ctx.roles["policy"] = with_dropout
    ctx.sampler = NativeSampler(with_dropout, ctx.template, ctx.config.sampling)
    found = refusal(ctx, prompts(ctx))
    assert "dropout is on in role 'policy'" in found
    assert "p=0.1" in found


def test_noise_that_is_not_a_dropout_module(tiny: Tiny):
    ctx = context(stage("sft", tiny()))
    norm = ctx.roles["policy"].hf.model.norm
    ctx.roles["policy"].dropout = True  # lets the norm go into training mode
    norm.register_forward_hook(lambda m, _, out: out + torch.randn_like(out) if m.training else out)
    assert "gives other logprobs in training than in evaluation" in refusal(ctx, examples(ctx.template, 8, 1))


@pytest.mark.parametrize("layout", ["rows", "tree", "varlen"])
def test_a_model_that_depends_on_its_batch(tiny: Tiny, layout: str):
    class OverTheBatch(nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states - states.mean((0, 1))

    ctx = context(stage("reward_model", tiny(), train={"layout": layout}))
    ctx.roles["reward"].hf.model.norm = OverTheBatch()
    found = refusal(ctx, examples(ctx.template, 8, 2))
    assert "(same_in_any_batch): scores of role 'reward' change by" in found
    assert f"layout {layout}" in found


def test_weights_that_are_not_numbers(tiny: Tiny):
    ctx = context(stage("sft", tiny()))
    ctx.roles["policy"].hf.lm_head.weight.data[7] = float("nan")
    assert "role 'policy'" in refusal(ctx, examples(ctx.template, 8, 1))


def test_a_reward_head_that_was_not_saved(tiny: Tiny, reward_folder: str, tmp_path: Path):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"hello {i}"}) + "\n" for i in range(4)))
    with pytest.raises(InputError, match="has no reward head: it was never saved, or this is not a reward model"):
        run_single("ppo", tiny(), str(data), tmp_path / "out", reward=tiny(seed=5))
    headless = tmp_path / "headless"
    save_role(load_scalar(reward_folder), headless, Template.load(reward_folder).tokenizer)
    weights = load_file(headless / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"the reward head was not saved with it \(score.weight is missing\)"):
        run_single("ppo", tiny(), str(data), tmp_path / "out", reward=str(headless))


# What is refused: the data


def test_a_stop_token_outside_the_loss(tiny: Tiny):
    ctx = context(stage("sft", tiny()))
    groups = examples(ctx.template, 8, 1)
    found = refusal(ctx, [cut(g) for g in groups])
    assert "(stop_token_trained): the end-of-turn token '<|end|>' (id 3) is in the loss of none of 8 responses" in found
    assert "every response was cut before its end" in found
    masked = [
        Group(g.prompt, tuple(replace(r, trained=(True,) * (len(r.token_ids) - 1) + (False,)) for r in g.responses))
        for g in groups
    ]
    assert "it stands in responses, but outside what is trained" in refusal(ctx, masked)
    assert "stop_token_trained" in passed(ctx, [*masked, groups[0]])


def test_an_end_of_turn_that_never_appears(tiny: Tiny):
    groups = examples(Template.load(tiny()), 8, 1)
    ctx = context(stage("sft", tiny(), end_of_turn="<|pad|>"))
    found = refusal(ctx, groups)
    assert "'<|pad|>' (id 4) is in the loss of none of 8 responses" in found
    assert "set end_of_turn" in found


def test_truncation_that_cuts_every_end(tiny: Tiny, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    row = json.dumps({"prompt": "hello", "response": "fine thank you " * 9})
    data.write_text(f"{row}\n" * 6)
    recipe = ["data.max_tokens=20", "data.on_too_long=truncate_response", "train.device=cpu"]
    with pytest.raises(InputError, match=r"every response was cut before its end; raise data\.max_tokens"):
        run_single("sft", tiny(), str(data), tmp_path / "out", overrides=recipe)


def test_a_template_that_does_not_keep_the_prompt(tiny: Tiny, tmp_path: Path):
    folder = tmp_path / "model"
    load_policy(tiny()).hf.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny())
    tokenizer.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    data = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "fine"}]
    data.write_text(json.dumps({"messages": turns}) + "\n")
    says = "does not keep the prompt as a prefix of prompt and answer: from token 0 on, the prompt reads"
    with pytest.raises(InputError, match=says):
        load_groups(DataConfig(path=str(data)), Template.load(folder), 128, need="responses")
    with pytest.raises(InputError, match=says):
        run_single("sft", str(folder), str(data), tmp_path / "out")


def test_groups_without_a_comparison(tiny: Tiny):
    ctx = context(stage("reward_model", tiny()))
    groups = examples(ctx.template, 8, 2)
    tied = Group(groups[3].prompt, groups[3].responses, {"ranking": (0, 0)})
    found = refusal(ctx, [*groups[:3], tied])
    assert "(comparisons_labelled): the ranking of group p3 puts no response above another" in found
    ctx = context(stage("reward_model", tiny(), margin="label"))
    assert 'margin = "label", but group p0 has no margin' in refusal(ctx, groups)
    assert passed(ctx, [Group(g.prompt, g.responses, {**g.labels, "margin": 1.0}) for g in groups])


def test_responses_of_one_token(tiny: Tiny):
    ctx = context(stage("sft", tiny()))
    groups = [Group(g.prompt, (Response((ctx.template.end_id,)),)) for g in examples(ctx.template, 8, 1)]
    assert "stop_token_trained" in passed(ctx, groups)
