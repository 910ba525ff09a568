"""Tether beside TRL: the same data, model, batches and optimiser steps, taken in turns: examples a second.

    python benchmarks/vs_trl.py --stage sft|rm [--repeats 5] [--device auto]

Parts: `prepare` (tokenizer, model folder, tokenised examples), `run_tether` and `run_trl` (one timed training each),
`held_out_loss` (plain transformers, neither side's code), `compare` (A B A B …), `report`. README.md says what is fair.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

import datasets
import torch
import transformers
import trl
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import tether
from tether.algorithms import ALGORITHMS
from tether.config import DataConfig, OptimConfig, TrainConfig
from tether.data.bpe import train_tokenizer
from tether.data.load import load_groups
from tether.data.rows import read_rows
from tether.data.template import Template
from tether.train.checkpoint import seed_everything
from tether.train.context import Context
from tether.train.cursor import Cursor
from tether.train.loop import Run, iterate
from tether.train.setup import build_role
from tether.types import Group

Stage = Literal["sft", "rm"]
NAMES = {"sft": "sft", "rm": "reward_model"}
"""Stage → its row in Tether's table of algorithms."""
ARCHITECTURE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
"""Of the base model that Tether ships (recipes/base.toml)."""
VOCABULARY, BATCH, HELD_OUT, SEED = 4096, 32, 64, 0
MICRO_BATCHES, DEFAULT = (1, 2, 4, 8, 16, 32), 8
"""Examples of one forward: TRL tries these while it warms up. The fastest runs, and its default runs beside it."""
OPTIM = OptimConfig(lr=5e-4, betas=(0.9, 0.95), weight_decay=0.0, max_grad_norm=1.0)
"""AdamW in fp32 at a constant rate."""
CHATS = "demo:chitchat-chat"
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
AGREE = 2e-3
"""Largest relative difference of the held-out losses that is rounding."""


class Work(NamedTuple):
    """What both sides get."""

    stage: Stage
    folder: Path
    """Model and tokenizer."""
    groups: list[Group]
    """One epoch of examples, tokenised."""
    held_out: list[Group]
    device: str
    clock: Callable[[], float]


class Outcome(NamedTuple):
    """One training."""

    seconds: float
    """From before the first batch is drawn to after the last optimiser step."""
    steps: int
    loss: float
    """On the held-out examples, afterwards."""


def prepare(stage: Stage, folder: Path, num_examples: int, device: str, clock: str) -> Work:
    """A vocabulary learnt from the demo conversations, random weights (a reward head too), and tokenised examples."""
    rows = read_rows(DataConfig(path="demo:chitchat-text", limit=1500))
    train_tokenizer((row["text"] for row in rows), VOCABULARY, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, num_labels=1, **ids, **ARCHITECTURE)
    seed_everything(SEED)
    (LlamaForSequenceClassification if stage == "rm" else LlamaForCausalLM)(config).save_pretrained(folder)
    limit = num_examples + HELD_OUT + BATCH  # some may be dropped
    path = CHATS if stage == "sft" else write_pairs(folder / "pairs.jsonl", limit)
    data = DataConfig(path=path, limit=limit, on_too_long="drop")
    need = ALGORITHMS[NAMES[stage]].data
    groups, _ = load_groups(data, Template.load(folder), ARCHITECTURE["max_position_embeddings"], need=need)
    held_out = groups[num_examples : num_examples + HELD_OUT]
    return Work(stage, folder, groups[:num_examples], held_out, device, CLOCKS[clock])


def write_pairs(file: Path, count: int) -> str:
    """Comparisons: the reply a prompt got against the reply another prompt got."""
    rows = list(read_rows(DataConfig(path=CHATS, limit=count)))
    both = zip(rows, [*rows[1:], rows[0]], strict=True)
    pairs = [{"prompt": a["prompt"], "chosen": a["response"], "rejected": b["response"]} for a, b in both]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return str(file)


def run_tether(work: Work, train: TrainConfig) -> Outcome:
    """One epoch through Tether's loop; logging, evaluation and checkpoints, which `train` adds, left out."""
    seed_everything(SEED)
    name = NAMES[work.stage]
    algorithm = ALGORITHMS[name]
    model, data = str(work.folder), DataConfig(path=CHATS)  # the groups are there already; a section wants a path
    config = algorithm.config(name="run", algorithm=name, model=model, data=data, train=train, optim=OPTIM)
    ((main, spec),) = algorithm.roles(config).items()
    role = build_role(spec, str, device=train.device, dtype=train.dtype, layout=train.layout, seed=SEED)
    ctx = Context(config, {main: role}, Template.load(work.folder), SEED, token_budget=train.token_budget)
    run = Run(algorithm, ctx, Cursor(work.groups, SEED), {main: OPTIM}, work.folder)
    total = len(work.groups) // BATCH
    began = now(work)
    for _ in range(total):
        iterate(run, total)
    seconds = now(work) - began
    return Outcome(seconds, ctx.step, held_out_loss(work, role.hf))


class Clock(transformers.TrainerCallback):
    """Seconds of a TRL training, without the building of its optimiser and data loader."""

    def __init__(self, work: Work) -> None:
        self.work, self.began, self.ended = work, 0.0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = now(self.work)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            self.ended = now(self.work)


def run_trl(work: Work, micro_batch: int) -> Outcome:
    """One epoch through TRL's trainer: nothing recomputed, logged, evaluated or saved; Tether's order of examples."""
    seed_everything(SEED)
    sft = work.stage == "sft"
    warnings.filterwarnings("ignore", category=FutureWarning)  # it names one of its own settings in the old way
    config = (trl.SFTConfig if sft else trl.RewardConfig)(
        output_dir=str(work.folder / "trl"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=BATCH // micro_batch,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        optim="adamw_torch_fused",
        learning_rate=OPTIM.lr,
        adam_beta1=OPTIM.betas[0],
        adam_beta2=OPTIM.betas[1],
        adam_epsilon=OPTIM.eps,
        weight_decay=OPTIM.weight_decay,
        max_grad_norm=OPTIM.max_grad_norm,
        lr_scheduler_type="constant",
        max_length=ARCHITECTURE["max_position_embeddings"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=work.device == "cpu",
        dataloader_num_workers=0,
        dataloader_pin_memory=work.device != "cpu",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        **({"completion_only_loss": True} if sft else {}),
    )
    clock = Clock(work)
    model = (LlamaForCausalLM if sft else LlamaForSequenceClassification).from_pretrained(work.folder)
    ordered = Cursor(work.groups, SEED).draw(len(work.groups))
    trainer = (trl.SFTTrainer if sft else trl.RewardTrainer)(
        model.to(torch.float32),
        config,
        train_dataset=datasets.Dataset.from_list([columns(work.stage, group) for group in ordered]),
        processing_class=AutoTokenizer.from_pretrained(work.folder),
        callbacks=[clock],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return Outcome(clock.ended - clock.began, trainer.state.global_step, held_out_loss(work, trainer.model))


def columns(stage: Stage, group: Group) -> dict[str, list[int]]:
    """An example as TRL takes it tokenised; a label of −100 is outside the loss."""
    prompt, answers = list(group.prompt.token_ids), [list(r.token_ids) for r in group.responses]
    if stage == "rm":
        return {"chosen_ids": prompt + answers[0], "rejected_ids": prompt + answers[1]}
    return {"input_ids": prompt + answers[0], "labels": [-100] * len(prompt) + answers[0]}


@torch.no_grad()
def held_out_loss(work: Work, model: Any) -> float:
    """The stage's loss on examples neither side saw: one unpadded sequence at a time through plain `transformers`."""
    model.eval()

    def logits(group: Group, i: int) -> torch.Tensor:
        ids = torch.tensor([group.prompt.token_ids + group.responses[i].token_ids], device=model.device)
        return model(input_ids=ids).logits[0]  # type: ignore[no-any-return]

    if work.stage == "rm":
        return -statistics.mean(logsigmoid(logits(g, 0) - logits(g, 1)).item() for g in work.held_out)
    targets = [torch.tensor(g.responses[0].token_ids, device=model.device) for g in work.held_out]
    predicted = [logits(g, 0)[len(g.prompt.token_ids) - 1 : -1] for g in work.held_out]
    return cross_entropy(torch.cat(predicted), torch.cat(targets)).item()


def now(work: Work) -> float:
    """Seconds, once the device has done what it was given."""
    if work.device != "cpu":
        torch.cuda.synchronize()
    return work.clock()


def compare(sides: dict[str, Callable[[], Outcome]], repeats: int) -> dict[str, list[Outcome]]:
    """Each side once to warm up, then in turns, so that a busy machine slows both."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, run in sides.items():
            gc.collect()
            outcomes[name].append(run())
    return {name: found[1:] for name, found in outcomes.items()}


def report(work: Work, outcomes: dict[str, list[Outcome]], settings: Sequence[str]) -> str:
    """Medians, ratios pair by pair, and whether both sides did the same work."""
    prompt = statistics.mean(len(g.prompt.token_ids) for g in work.groups)
    answer = statistics.mean(len(r.token_ids) for g in work.groups for r in g.responses)
    unit = "pairs" if work.stage == "rm" else "examples"
    data = f"{len(work.groups)} {unit} of {prompt:.0f} prompt and {answer:.0f} response tokens on average"
    lines = [f"{work.stage}: {data}", f"{machine(work.device)}; {', '.join(settings)}"]
    rates = {name: [len(work.groups) / one.seconds for one in found] for name, found in outcomes.items()}
    mine, same = outcomes["tether"][-1], True
    for name, rate in rates.items():
        last, spread = outcomes[name][-1], f"median of {len(rate)}, {min(rate):.1f} to {max(rate):.1f}"
        did = f"{last.steps} steps, held-out loss {last.loss:.5f}"
        lines.append(f"{name:18}{statistics.median(rate):7.1f} {unit}/s ({spread}); {did}")
        same = same and last.steps == mine.steps and abs(last.loss - mine.loss) <= AGREE * mine.loss
    for name in list(rates)[1:]:
        ratios = [a / b for a, b in zip(rates["tether"], rates[name], strict=True)]
        spread = f"min {min(ratios):.2f}, median {statistics.median(ratios):.2f}, max {max(ratios):.2f}"
        lines.append(f"tether / {name}: {spread}; turn by turn {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
    return "\n".join([*lines, f"same work: {'yes' if same else 'NO'}"])


def machine(device: str) -> str:
    """The machine in words."""
    cpu = f"{os.cpu_count()}-core {platform.machine()} CPU, threads used: {torch.get_num_threads()}"
    versions = (f"{module.__name__} {module.__version__}" for module in (torch, transformers, trl, tether))
    return ", ".join([cpu if device == "cpu" else torch.cuda.get_device_name(), *versions])


def main() -> None:
    """Reads the command line and prints the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", choices=["sft", "rm"], required=True)
    parser.add_argument("--repeats", type=int, default=5, help="timed trainings of each side")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: on a busy machine, with one thread")
    parser.add_argument("--steps", type=int, default=16, help=f"optimiser steps of a training, {BATCH} examples each")
    parser.add_argument("--token-budget", type=int, default=TrainConfig().token_budget, help="Tether's; its default")
    parser.add_argument("--layout", choices=["auto", "rows", "tree"], default="auto", help="Tether's; its default")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    budget, layout = given.token_budget, given.layout
    train = TrainConfig(epochs=1, batch_size=BATCH, device=device, dtype="float32", token_budget=budget, layout=layout)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(given.stage, Path(folder), given.steps * BATCH, device, given.clock)
        best = min(MICRO_BATCHES, key=lambda size: run_trl(work, size).seconds)
        sides: dict[str, Callable[[], Outcome]] = {"tether": lambda: run_tether(work, train)}
        sides |= {f"trl micro-batch {n}": partial(run_trl, work, n) for n in (best, DEFAULT)}
        settings = (f"{given.clock} time", f"batch {BATCH}, fp32", f"tether token_budget {budget}, layout {layout}")
        print(report(work, compare(sides, given.repeats), settings))


if __name__ == "__main__":
    main()
