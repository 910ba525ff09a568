"""Tokenizers made here: a byte-level vocabulary of a few words, under whichever chat template a test is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tether.data.bpe import train_tokenizer
from tether.data.template import Template

WORDS = "hello there how are you today I am fine thank you what is your name the cat sat on the mat " * 3

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MakeTokenizer = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 300 tokens with the shipped chat template."""
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([WORDS], 300, out)
    return out


@pytest.fixture
def tokenizer(folder: Path) -> MakeTokenizer:
    """`tokenizer(chat_template=…, add=(special tokens), eos=…, begin=True)`: a fresh one with these changes."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    def make(*, add: tuple[str, ...] = (), begin: bool = False, closing: bool = False, **attributes: Any) -> Any:
        made = AutoTokenizer.from_pretrained(folder)
        if add:
            made.add_tokens(list(add), special_tokens=True)
        if begin or closing:
            single = ["<|begin|>"] * begin + ["$A"] + ["<|end|>"] * closing
            ids = [(token, made.convert_tokens_to_ids(token)) for token in ("<|begin|>", "<|end|>")]
            made.backend_tokenizer.post_processor = TemplateProcessing(single=" ".join(single), special_tokens=ids)
        for name, value in attributes.items():
            setattr(made, name, value)
        return made

    return make


@pytest.fixture
def chatml(tokenizer: MakeTokenizer) -> Template:
    """ChatML, whose template writes a newline after the end-of-turn token."""
    made = tokenizer(add=("<|im_start|>", "<|im_end|>"), chat_template=CHATML, eos_token="<|im_end|>")
    return Template.of(made, "chatml")


@pytest.fixture
def plain(tokenizer: MakeTokenizer) -> Template:
    """No chat template; the tokenizer itself writes the begin-of-sequence token."""
    return Template.of(tokenizer(begin=True, chat_template=None), "plain")


@pytest.fixture
def base(folder: Path) -> Template:
    """The template of `bpe.py`."""
    return Template.load(folder)
