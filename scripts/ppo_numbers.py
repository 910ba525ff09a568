"""Makes the numbers that tests/parity/test_ppo_against_stored_trl.py compares ours with: TRL's own PPO, run and read.

    pip download trl==1.12.0 --no-deps -d build/trl
    unzip -q build/trl/trl-1.12.0-py3-none-any.whl -d build/trl
    PYTHONPATH=build/trl python scripts/ppo_numbers.py

TRL 1.12 is the last release that holds PPO; it runs on what the `dev` extra installs, without a shim. For each of the
`settings` its `PPOTrainer` trains tiny random models on random prompts for one batch: it samples, scores, shapes,
whitens, and takes a few epochs of steps large enough that the clips bite. The tensors of `train()` are read where it
calls `accelerator.backward`: the batch as sampled, and in the last epoch each micro-batch's predictions, losses and the
gradients of its loss. Padding is as TRL has it, on the right.

Training is in float64, so that what is stored (8 significant digits) is free of rounding; TRL's sampler gives its
log-probs in float32, and those stand as the inputs they are. Another torch may draw other samples: then all numbers
change, and the test holds all the same.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import warnings
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, set_seed
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

TARGET = Path(__file__).parents[1] / "tests" / "parity" / "ppo_trl_1_12.json"
VOCABULARY, END = 7, 3
PAD = VOCABULARY
"""No token of the models, so that none can sample it: TRL takes the first one for the end of the response."""
NUM_CASES, EPOCHS = 24, 3
METRICS = {
    "clip_fraction": "pg_clipfrac",
    "value_clip_fraction": "vf_clipfrac",
    "approx_kl": "approxkl",
    "ratio": "ratio",
}


def settings(seed: int) -> dict[str, Any]:
    """One case's fields of TRL's config, under TRL's names. The cases between them hold every option."""
    draw = random.Random(seed)
    whiten, plain = seed % 4 == 3, seed % 6 == 1
    return {
        "kl_estimator": "k3" if seed // 2 % 2 else "k1",
        "kl_coef": draw.choice([0.05, 0.2, 0.5]),
        "gamma": 1.0 if plain else draw.choice([1.0, 0.99, 0.9]),
        "lam": 1.0 if plain else draw.choice([0.95, 0.8, 0.5, 0.0]),
        "cliprange": draw.choice([0.05, 0.1, 0.2, 0.3]),
        "cliprange_value": draw.choice([0.05, 0.1, 0.2, 0.4]),
        "vf_coef": draw.choice([0.1, 0.5, 1.0]),
        "whiten_rewards": whiten,
        "missing_eos_penalty": draw.choice([0.5, 1.0, 2.0]) if seed % 3 == 1 else None,
        # Without a stop token every response has full length, and no row has padding.
        "stop_token": None if seed % 4 == 0 else "eos",
        "response_length": draw.choice([3, 4, 5]) if whiten else draw.choice([3, 5, 6, 8, 11]),
        "gradient_accumulation_steps": 2 if seed % 5 == 2 else 1,
        "batch_size": 8 if whiten else draw.choice([2, 4, 6]),  # TRL whitens rewards from 8 on
        "temperature": draw.choice([0.7, 1.0]),
    }


def model(kind: Any, seed: int, **fields: Any) -> Any:
    """A random model in float64, its predictions far from uniform."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,  # only what fills the sampler's rows after their end
        **fields,
    )
    return kind(config).double()


def padded_prompts(examples: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    rows = [e["input_ids"] for e in examples]
    width = max(map(len, rows))
    return {"input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in rows])}


class Reader:
    """Stands before a trainer's `accelerator.backward` and keeps what it finds in the frame that calls it."""

    def __init__(self, trainer: PPOTrainer) -> None:
        self.step = trainer.accelerator.backward
        self.batch: dict[str, Any] = {}
        self.updates: list[dict[str, Any]] = []
        self.stats: dict[str, Tensor] = {}

    def backward(self, loss: Tensor) -> None:
        """Reads, then does what it stands before."""
        caller: FrameType = sys._getframe(1)
        found = caller.f_locals
        leaves = found["new_logprobs"], found["vpred"]
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
        if not self.batch:
            self.batch = {
                "lengths": found["sequence_lengths"] + 1,  # theirs is the last token's index
                "ended": found["contain_eos_token"],
                "logprobs": found["logprobs"],
                "ref_logprobs": found["ref_logprobs"],
                "values": found["values"],
                "token_rewards": found["rewards"],
                "advantages": found["advantages"],
                "returns": found["returns"],
            }
            self.stats = {name: x for name, x in found.items() if name.endswith("_stats")}
        if found["ppo_epoch_idx"] == EPOCHS - 1:
            update = {
                "rows": torch.as_tensor(found["micro_batch_inds"]),
                "new_logprobs": leaves[0].detach(),
                "new_values": leaves[1].detach(),
                "loss": loss.detach(),
                "policy_loss": found["pg_loss"].detach(),
                "value_loss": found["vf_loss"].detach(),
                "grad_logprobs": gradients[0],
                "grad_values": gradients[1],
            }
            self.updates.append(update)
        self.step(loss)

    def read(self) -> dict[str, Any]:
        """All of it, after training."""
        for micro, update in enumerate(self.updates):
            update |= {name: self.stats[f"{theirs}_stats"][-1, 0, micro] for name, theirs in METRICS.items()}
        return self.batch | {"updates": self.updates}


def case(seed: int, folder: str) -> dict[str, Any]:
    """One setting's numbers."""
    chosen = settings(seed)
    fields = {name: x for name, x in chosen.items() if name != "batch_size"}
    accumulated = chosen["gradient_accumulation_steps"]
    config = PPOConfig(
        output_dir=folder,
        **fields,
        per_device_train_batch_size=chosen["batch_size"] // accumulated,
        total_episodes=chosen["batch_size"],
        num_ppo_epochs=EPOCHS,
        num_sample_generations=0,
        learning_rate=0.005,
        optim="adamw_torch",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    draw = random.Random(seed)
    prompts = [[draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 4))] for _ in range(chosen["batch_size"])]
    models = {
        "model": model(LlamaForCausalLM, 4 * seed),
        "ref_model": model(LlamaForCausalLM, 4 * seed + 1),
        "value_model": model(LlamaForSequenceClassification, 4 * seed + 2, num_labels=1),
        "reward_model": model(LlamaForSequenceClassification, 4 * seed + 3, num_labels=1),
    }
    scores = []

    def scored(of: Any, *args: Any) -> Any:
        result = get_reward(of, *args)
        if of is models["reward_model"]:
            scores.append(result[1].clone())  # before the penalty, which is subtracted in place
        return result

    get_reward, ppo_trainer.get_reward = ppo_trainer.get_reward, scored
    try:
        trainer = PPOTrainer(
            args=config,
            processing_class=SimpleNamespace(pad_token_id=PAD, eos_token_id=END),
            train_dataset=Dataset.from_dict({"input_ids": prompts}),
            data_collator=padded_prompts,
            eval_dataset=Dataset.from_dict({"input_ids": prompts}),
            **models,
        )
        reader = Reader(trainer)
        trainer.accelerator.backward = reader.backward
        trainer.train()
    finally:
        ppo_trainer.get_reward = get_reward
    return {"settings": chosen, "scores": torch.cat(scores)} | reader.read()


def plain(x: Any) -> Any:
    """JSON of it, numbers to 8 significant digits."""
    if isinstance(x, Tensor):
        return plain(x.tolist())
    if isinstance(x, dict):
        return {name: plain(each) for name, each in x.items()}
    if isinstance(x, list):
        return [plain(each) for each in x]
    return float(f"{x:.8g}") if isinstance(x, float) else x


def main() -> None:
    """Runs every case and writes `TARGET`, a case a line."""
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        cases = [plain(case(seed, folder)) for seed in range(NUM_CASES)]
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    TARGET.write_text(f'{{"versions":{json.dumps(versions)},"cases":[\n{lines}\n]}}\n', encoding="utf-8")
    print(TARGET, TARGET.stat().st_size, "bytes")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # TRL's
    main()
