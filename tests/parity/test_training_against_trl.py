"""A few optimiser steps of SFT and of a reward model: the same model, data and order in TRL's own trainers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, run_of, stage
from torch import nn

from tether.models.save import save_role
from tether.monitor.log import read_events
from tether.train.cursor import Cursor
from tether.train.loop import train
from tether.types import Group

pytest.importorskip("trl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's import, not ours
    import datasets
    import transformers
    import trl

STEPS, BATCH = 4, 6
OPTIM = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-5}


def columns(group: Group) -> dict[str, Any]:
    """An example as TRL takes it tokenised."""
    prompt, *answers = (list(part.token_ids) for part in (group.prompt, *group.responses))
    if len(answers) == 2:
        return {"chosen_ids": prompt + answers[0], "rejected_ids": prompt + answers[1]}
    return {"input_ids": prompt + answers[0], "labels": [-100] * len(prompt) + answers[0]}


def in_trl(model: nn.Module, tokenizer: Any, groups: list[Group], out: Path, micro_batch: int) -> list[float]:
    """The loss of each step; `model` is trained in place."""
    sft = len(groups[0].responses) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL and accelerate about each other
        config = (trl.SFTConfig if sft else trl.RewardConfig)(
            output_dir=str(out),
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=BATCH // micro_batch,
            max_steps=STEPS,
            train_sampling_strategy="sequential",
            learning_rate=OPTIM["lr"],
            adam_beta1=0.9,
            adam_beta2=0.95,
            adam_epsilon=OPTIM["eps"],
            weight_decay=0.0,
            max_grad_norm=1.0,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = (trl.SFTTrainer if sft else trl.RewardTrainer)(
            model,
            config,
            train_dataset=datasets.Dataset.from_list([columns(group) for group in groups]),
            processing_class=tokenizer,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("algorithm", ["sft", "reward_model"])
@pytest.mark.parametrize("micro_batch", [2, 6])
def test_the_same_steps(tiny: Tiny, tmp_path: Path, algorithm: str, architecture: str, micro_batch: int):
    plan = {"steps": STEPS, "batch_size": BATCH, "token_budget": 64 * micro_batch}
    ctx = context(stage(algorithm, tiny(architecture), train=plan, optim=OPTIM))
    role = next(iter(ctx.roles.values()))
    groups = examples(ctx.template, STEPS * BATCH, 1 if algorithm == "sft" else 2)
    if algorithm == "sft":
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny(architecture), dtype=torch.float32)
    else:  # the head that Tether drew, through a saved folder
        save_role(role, tmp_path / "start", ctx.template.tokenizer)
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "start", num_labels=1)
    ordered = Cursor(groups, ctx.seed).draw(len(groups))
    expected = in_trl(theirs, ctx.template.tokenizer, ordered, tmp_path / "trl", micro_batch)

    train(run_of(ctx, groups, tmp_path / "ours"), [])
    loss = "sft/loss" if algorithm == "sft" else "rm/loss"
    found = [e[loss] for e in read_events(tmp_path / "ours") if e["kind"] == "train"]
    assert len(expected) == STEPS
    assert found == pytest.approx(expected, abs=1e-4)
    assert abs(found[0] - found[-1]) > 1e-2  # it learnt something, so the steps matter
    mine = dict(role.hf.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(mine[name], parameter, rtol=0, atol=2e-5, msg=name)
