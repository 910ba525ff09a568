"""Tiny random models of many architectures, as folders on disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from transformers.utils import logging as hf_logging

from tether.types import Group, Prompt, Response

hf_logging.disable_progress_bar()

VOCAB = 97
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,  # wide enough that attention to a wrong token shows
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEAD = {"head_dim": 8}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}

CONFIGS: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**SMALL),
    "llama-tied": lambda: hf.LlamaConfig(**SMALL, tie_word_embeddings=True, attention_bias=True),
    "qwen2-windows": lambda: hf.Qwen2Config(**SMALL, use_sliding_window=True, **SLIDING),
    "qwen3": lambda: hf.Qwen3Config(**SMALL, **HEAD),
    "gemma2": lambda: hf.Gemma2Config(
        **SMALL, **HEAD, **SLIDING, final_logit_softcapping=3.0, attn_logit_softcapping=2.0, query_pre_attn_scalar=8
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(**SMALL, **HEAD, **SLIDING, query_pre_attn_scalar=8),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.15,
        bos_token_id=2,
        eos_token_id=2,
    ),
    "mistral": lambda: hf.MistralConfig(**SMALL, sliding_window=5),
    "phi": lambda: hf.PhiConfig(**SMALL),  # a vocabulary head with a bias
    "phi3": lambda: hf.Phi3Config(**SMALL),
    "olmo2": lambda: hf.Olmo2Config(**SMALL),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "granite": lambda: hf.GraniteConfig(**SMALL, logits_scaling=4.0, residual_multiplier=0.5, embedding_multiplier=3.0),
    "cohere2": lambda: hf.Cohere2Config(**SMALL, **SLIDING, logit_scale=0.25),
    "opt": lambda: hf.OPTConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        init_std=0.15,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        do_layer_norm_before=True,
    ),
    "qwen3-moe": lambda: hf.Qwen3MoeConfig(
        **SMALL, **HEAD, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, decoder_sparse_step=1
    ),
    "gpt-oss": lambda: hf.GptOssConfig(**SMALL, **HEAD, **SLIDING, num_local_experts=4, num_experts_per_tok=2),
    "bloom": lambda: hf.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.15),
    "mamba": lambda: hf.MambaConfig(
        vocab_size=VOCAB, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.15, use_mambapy=False
    ),
    "recurrent-gemma": lambda: hf.RecurrentGemmaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        lru_width=32,
        attention_window_size=16,
        logits_soft_cap=3.0,
    ),
    "gpt-neo": lambda: hf.GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=5,
        max_position_embeddings=64,
        initializer_range=0.15,
    ),
}
TREE = [
    "llama",
    "llama-tied",
    "qwen2-windows",
    "qwen3",
    "gemma2",
    "gemma3",
    "gpt2",
    "mistral",
    "phi",
    "phi3",
    "olmo2",
    "gpt-neox",
    "granite",
    "cohere2",
    "opt",
    "qwen3-moe",
    "gpt-oss",
]
FALL_BACK = ["bloom", "mamba", "recurrent-gemma", "gpt-neo"]
# Without flash attention, these look past the bounds of a packed sequence.
UNPACKED = [*FALL_BACK, "opt", "gpt-oss"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Name of an architecture → a folder with a tiny random causal LM of it."""
    made: dict[str, str] = {}

    def make(name: str) -> str:
        if name not in made:
            with torch.random.fork_rng():
                torch.manual_seed(7)
                model = hf.AutoModelForCausalLM.from_config(CONFIGS[name]())
                for parameter in model.parameters():  # no bias of 0, no norm of 1: nothing may be left out unseen
                    parameter.data += 0.05 * torch.randn_like(parameter)
            made[name] = str(tmp_path_factory.mktemp("models") / name)
            model.save_pretrained(made[name])
        return made[name]

    return make


def group(prompt: int, *responses: int, seed: int = 0) -> Group:
    """A group of random ids with these lengths."""
    random = torch.Generator().manual_seed(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCAB, (length,), generator=random).tolist())

    return Group(Prompt(draw(prompt)), tuple(Response(draw(length)) for length in responses))


@pytest.fixture
def groups() -> list[Group]:
    """Groups of unlike shapes: different K, one-token responses, a response longer than any window."""
    return [group(7, 5, 1, 9, seed=1), group(3, 12, seed=2), group(11, 2, 2, seed=3)]
