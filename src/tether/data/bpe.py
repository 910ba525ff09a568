"""A byte-level BPE vocabulary learnt from text, with the chat template of the shipped base model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tether.errors import InputError

BEGIN, USER, ASSISTANT, END, PAD = SPECIAL = ("<|begin|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")

CHAT_TEMPLATE = (
    "<|begin|>{% for m in messages %}"
    "{% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('roles are user and assistant') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""`<|begin|>`, then `<|role|>content<|end|>` for each turn; the prefix of a conversation is a prefix of its tokens."""


def render(turns: Iterable[Mapping[str, str]]) -> str:
    """A conversation as `CHAT_TEMPLATE` writes it.

    >>> render([{"role": "user", "content": "hi"}])
    '<|begin|><|user|>hi<|end|>'
    """
    return BEGIN + "".join(f"<|{turn['role']}|>{turn['content']}{END}" for turn in turns)


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path) -> None:
    """Learns a vocabulary of at most `vocab_size` tokens and writes it to `out`, for `AutoTokenizer` to load.

    The same texts give the same files. `<|end|>` ends a turn, `<|pad|>` is never a real token.

    Raises:
        InputError: a vocabulary too small for the 256 bytes and the special tokens.
    """
    least = 256 + len(SPECIAL)
    if vocab_size < least:
        raise InputError(f"vocab_size {vocab_size}: byte-level BPE needs at least {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[USER, ASSISTANT],
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)
