from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tether.models.role import Role
from tether.types import Prompt

LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SPECIAL = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "mistral": LLAMA_LIKE | {"sliding_window": 6},
    "gemma3_text": LLAMA_LIKE
    | {
        "sliding_window": 6,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "lfm2": LLAMA_LIKE | {"layer_types": ["conv", "full_attention"]},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


@dataclass(frozen=True)
class Ids:
    """A template whose text is its token ids."""

    stop_ids: frozenset[int] = field(default=frozenset({1}))

    def decode(self, ids: tuple[int, ...]) -> str:
        return " ".join(map(str, ids))


@pytest.fixture
def make_role() -> Callable[..., Role]:
    def make(name: str = "llama", vocab_size: int = 61, **settings: Any) -> Role:
        config = AutoConfig.for_model(
            name,
            **(SPECIAL.get(name, LLAMA_LIKE) | settings),
            vocab_size=vocab_size,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in hf.parameters():
                if weight.ndim > 1:
                    weight.mul_(6)  # else the distribution is so flat that a wrong cache would hardly show
        return Role(hf, "policy")

    return make


@pytest.fixture
def prompts() -> list[Prompt]:
    """Thirteen of 3 to 14 tokens, some of one length, one that occurs twice."""
    source = random.Random(0)
    made = [
        Prompt(tuple(source.randrange(3, 61) for _ in range(source.choice([3, 5, 5, 9, 14]))), meta={"id": f"p{i}"})
        for i in range(12)
    ]
    return [*made, made[4]]


@pytest.fixture
def ids_template() -> type[Ids]:
    return Ids


@pytest.fixture
def template() -> Ids:
    return Ids()
