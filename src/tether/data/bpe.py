"""A byte-level BPE tokenizer with a chat template, trained from nothing: the shipped base model's.

A conversation is `<|begin|>` and then `<|user|>…<|end|>` or `<|assistant|>…<|end|>` for each turn; `<|end|>` is both
the end of a turn and the end-of-sequence token. `<|pad|>` is a token of its own, so nothing can confuse it with an end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tether.errors import InputError
from tether.types import Message

BEGIN, USER, ASSISTANT, END, PAD = SPECIAL_TOKENS = ("<|begin|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")

CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('this template knows the roles user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


def render(messages: Sequence[Message]) -> str:
    """What `CHAT_TEMPLATE` makes of whole turns, as text.

    >>> render([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}])
    '<|begin|><|user|>hi<|end|><|assistant|>hello<|end|>'
    """
    return BEGIN + "".join(f"<|{m['role']}|>{m['content']}{END}" for m in messages)


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path) -> Any:
    """Learn `vocab_size` tokens from `texts`, save to the folder `out` (for `AutoTokenizer`), and return the tokenizer.

    The same texts in the same order give the same files. Special tokens written in the texts are boundaries, not text
    to learn. Raises InputError when the vocabulary cannot hold the 256 bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise InputError(f"vocab_size is {vocab_size}; 256 bytes and the special tokens need at least {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = (piece for text in texts for piece in _SPECIAL.split(text) if piece)
    tokenizer.train_from_iterator(pieces, trainer)
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)
    return fast
