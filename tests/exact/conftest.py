"""A world small enough to be enumerated: four tokens, responses of at most three, all forty of them known.

The policies are real models with a real tokenizer in a folder, sampled, scored and trained by the product's own code;
what that code ought to find is summed here over all responses, from plain forwards of the Hugging Face model.
The end of turn is one of the tokens, so that responses have lengths 1, 2 and 3 and some of length 3 are cut.

Shapes: `Y` responses (40), `T` tokens of the longest (3), `P` numbers of a policy's weights.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers as hf
from tests.train.conftest import context, stage
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from tether.algorithms import ALGORITHMS
from tether.train.context import Context
from tether.types import Algorithm, Group, Prompt, Response

WORDS = {"a": 0, "b": 1, "c": 2, "<end>": 3}
END = WORDS["<end>"]
LONGEST = 3
OPEN = [ids for n in (1, 2, 3) for ids in itertools.product(range(END), repeat=n)]
IDS = sorted([(END,), *((*ids, END) for ids in OPEN if len(ids) < LONGEST), *(ids for ids in OPEN if len(ids) == 3)])
"""Every response there is: 1 + 3 + 9 that end, and 27 that are cut."""
RESPONSES = tuple(Response(ids, ended=ids[-1] == END) for ids in IDS)
LENGTHS = torch.tensor([len(ids) for ids in IDS])  # (Y,)
REAL = torch.arange(LONGEST) < LENGTHS[:, None]  # (Y, T)

_source = random.Random(7)
SCORE = {ids: 1.0 + _source.gauss(0, 1) for ids in IDS}
"""Of no two responses the same, and of a mean that only a baseline removes."""
SCORES = torch.tensor([SCORE[ids] for ids in IDS])  # (Y,)

World = Callable[..., str]
"""(seed, layers) → the folder of a random policy. Two layers can become any distribution of responses, and soon."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made: dict[tuple[int, int], str] = {}

    def make(seed: int, layers: int = 1) -> str:
        if (seed, layers) not in made:
            folder = tmp_path_factory.mktemp("world")
            words = Tokenizer(models.WordLevel(WORDS, unk_token="a"))
            words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="a")
            tokenizer.save_pretrained(folder)
            config = hf.LlamaConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=layers,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=16,
                initializer_range=0.15,
                eos_token_id=END,
                bos_token_id=None,
                pad_token_id=None,
            )
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                hf.LlamaForCausalLM(config).save_pretrained(folder)
            made[seed, layers] = str(folder)
        return made[seed, layers]

    return make


def score(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The reward, with TRL's signature."""
    return [SCORE[tuple(ids)] for ids in completion_ids]


def given(algorithm: str, model: str, reward: Callable[..., Any] | None = None, **fields: Any) -> Context:
    """A run of an algorithm in this world."""
    if reward is not None:
        fields = {"reward": "unread:reward"} | fields
        fields["sampling"] = {"max_new_tokens": LONGEST, "batch_size": 2048} | fields.get("sampling", {})
    fields["train"] = {"dtype": "float32", "layout": "rows", "token_budget": 1 << 20} | fields.get("train", {})
    return context(stage(algorithm, model, **fields), reward)


def algorithm_of(ctx: Context) -> Algorithm:
    return ALGORITHMS[ctx.config.algorithm]


def ask(ctx: Context, text: str = "a b") -> Prompt:
    return ctx.template.prompt(text)


def log_probs(model: Any, prompt: Prompt, temperature: float = 1.0) -> Tensor:
    """(Y, T) log-prob of every token of every response, 0 past its end, with gradient."""
    start = len(prompt.token_ids)
    rows = torch.tensor([[*prompt.token_ids, *ids, *[0] * (LONGEST - len(ids))] for ids in IDS])
    logits = model(input_ids=rows, use_cache=False).logits[:, start - 1 : -1] / temperature
    picked = logits.log_softmax(-1).gather(2, rows[:, start:, None])[..., 0]
    return torch.where(REAL, picked, 0.0)


def flat(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """(P,) one vector; a weight without gradient has gradient 0."""
    pairs = zip(gradients, like, strict=True)
    return torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten() for g, w in pairs]).double()


def gradient(value: Tensor, model: Any) -> Tensor:
    """(P,) of `value` after the model's weights."""
    weights = list(model.parameters())
    return flat(torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True), weights)


def prompts_of(prompts: Sequence[Prompt], count: int) -> list[Group]:
    """`count` of them, in turn."""
    return [Group(prompts[i % len(prompts)]) for i in range(count)]
