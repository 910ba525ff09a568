"""Rows → examples: which of the field's formats a row is in, and what it says.

    text              {text}
    prompts           {prompt}
    prompt_response   {prompt, response}             also completion, answer, output; instruction, question
    messages          {messages}                     a list of {role, content}; also ShareGPT's {from, value}
    preference        {prompt, chosen, rejected}     or no prompt: the turns both share (hh-rlhf's strings too)
    ranking           {prompt, responses, ranking}   lists; the lowest rank is the best, equal ranks are ties
    unpaired          {prompt, response, label}      label: whether the response is desirable (KTO)
    steps             {prompt, steps, labels}        lists; labels: whether each step is right (PRM); also completions

A prompt is a string or a list of messages; every other column goes along as metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tether.errors import InputError
from tether.types import Message

Said = str | list[Message]

ALIASES = {
    "prompt": ("prompt", "instruction", "question", "query"),
    "response": ("response", "completion", "answer", "output"),
    "messages": ("messages", "conversations", "conversation"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "text": ("text",),
    "responses": ("responses", "completions"),
    "ranking": ("ranking", "ranks"),
    "label": ("label",),
    "steps": ("steps", "completions"),
    "labels": ("labels",),
}
"""Name here → the columns it is known by, best first."""

FORMATS = {
    "preference": ("chosen", "rejected"),
    "ranking": ("prompt", "responses", "ranking"),
    "steps": ("prompt", "steps", "labels"),
    "unpaired": ("prompt", "response", "label"),
    "prompt_response": ("prompt", "response"),
    "messages": ("messages",),
    "prompts": ("prompt",),
    "text": ("text",),
}
"""Format → the columns it needs, the most telling first."""

ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Example:
    """One row, understood."""

    row: int
    """Its number in the file, from 1."""
    prompt: Said | None = None
    """What is answered; None for running text."""
    responses: tuple[str, ...] = ()
    """One to imitate, the chosen and the rejected, all that were ranked, or one in its steps."""
    labels: tuple[int, ...] = ()
    """Ranks of the responses; whether the one is desirable; whether each step is right."""
    text: str = ""
    """Running text."""
    conversation: tuple[Message, ...] = ()
    """A whole conversation to imitate."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The other columns."""


def detect(columns: Sequence[str], source: str) -> str:
    """The format whose columns are there.

    Raises:
        InputError: none is; the sentence names the columns found and the formats understood.
    """
    for name, needed in FORMATS.items():
        if all(any(alias in columns for alias in ALIASES[n]) for n in needed):
            return name
    known = "; ".join(f"{name} ({' + '.join(needed)})" for name, needed in FORMATS.items())
    names = ", ".join(columns) or "none"
    raise InputError(f"{source}: found columns {names}; understood are: {known}. Use `rename` to name them")


def understand(rows: Sequence[Mapping[str, Any]], format: str, source: str, split: str) -> list[Example]:
    """Rows of one format → examples, their metadata the other columns and `id`, `row`, `split`.

    Raises:
        InputError: a column is missing, empty or of the wrong type; the sentence names source, row and column.
    """
    return [_example(row, number, format, source, split) for number, row in enumerate(rows, 1)]


def _example(row: Mapping[str, Any], number: int, format: str, source: str, split: str) -> Example:
    where = f"{source}, row {number}"
    used = {_column(row, n, where) for n in FORMATS[format]}
    if format == "preference" and (prompt := next((a for a in ALIASES["prompt"] if row.get(a) is not None), None)):
        used.add(prompt)
    meta = {name: value for name, value in row.items() if name not in used} | {"row": number, "split": split}
    meta.setdefault("id", str(number))

    def get(name: str) -> tuple[Any, str]:
        column = _column(row, name, where)
        return row[column], f"{where}, column '{column}'"

    if format == "text":
        return Example(number, text=_string(*get("text")), meta=meta)
    if format == "messages":
        return Example(number, conversation=tuple(_messages(*get("messages"))), meta=meta)
    if format == "prompts":
        return Example(number, prompt=_asked(_said(*get("prompt")), where), meta=meta)
    if format == "unpaired":
        asked, answer = _asked(_said(*get("prompt")), where), _answer(*get("response"))
        return Example(number, asked, (answer,), (_flag(*get("label")),), meta=meta)
    if format in ("ranking", "steps"):
        many, about = ("responses", "ranking") if format == "ranking" else ("steps", "labels")
        texts, labels = _listed(*get(many), _answer), _listed(*get(about), _rank if format == "ranking" else _flag)
        if len(texts) != len(labels) or len(texts) < (2 if format == "ranking" else 1):
            raise InputError(f"{where}: has {len(texts)} {many} and {len(labels)} in its {about}; each needs one")
        return Example(number, _asked(_said(*get("prompt")), where), texts, labels, meta=meta)
    if format == "prompt_response":
        return Example(number, _asked(_said(*get("prompt")), where), (_answer(*get("response")),), meta=meta)
    return _preference(row, number, where, meta, get)


def _preference(row: Mapping[str, Any], number: int, where: str, meta: Mapping[str, Any], get: Any) -> Example:
    chosen, rejected = _said(*get("chosen")), _said(*get("rejected"))
    asked = next((row[a] for a in ALIASES["prompt"] if row.get(a) is not None), None)
    if asked is not None:
        prompt = _asked(_said(asked, f"{where}, prompt"), where)
        if isinstance(prompt, str) and not isinstance(chosen, str):
            prompt = [{"role": "user", "content": prompt}]  # UltraFeedback: text, and again as the sides' first message
        pair = tuple(_last_turn(side, prompt, where) for side in (chosen, rejected))
        return Example(number, prompt, pair, (0, 1), meta=meta)
    if isinstance(chosen, str) and isinstance(rejected, str):
        chosen, rejected = _hh(chosen, f"{where}, column 'chosen'"), _hh(rejected, f"{where}, column 'rejected'")
    if isinstance(chosen, str) or isinstance(rejected, str) or chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise InputError(f"{where}: no prompt column, and chosen and rejected share no turns before their last one")
    pair = (_reply(chosen, where), _reply(rejected, where))
    return Example(number, _asked(chosen[:-1], where), pair, (0, 1), meta=meta)


def _last_turn(side: Said, prompt: Said, where: str) -> str:
    """The answer itself: sides may be strings, one assistant message, or the whole conversation again."""
    if isinstance(side, str):
        return side
    before = side[:-1]
    if before and before != prompt:
        raise InputError(f"{where}: chosen or rejected repeats a conversation that is not the prompt's")
    return _reply(side, where)


def _reply(messages: list[Message], where: str) -> str:
    """What the last message says, which must be the assistant's."""
    if messages[-1]["role"] != "assistant":
        raise InputError(f"{where}: a response must be the assistant's turn, not the {messages[-1]['role']}'s")
    return messages[-1]["content"]


def _hh(text: str, where: str) -> list[Message]:
    """hh-rlhf's `\\n\\nHuman: …\\n\\nAssistant: …` strings as messages."""
    parts = re.split(r"\n\n(Human|Assistant): ?", text)
    if len(parts) < 5 or parts[0].strip():
        raise InputError(f"{where}: no prompt column, and not a dialogue of \\n\\nHuman: and \\n\\nAssistant: turns")
    names = {"Human": "user", "Assistant": "assistant"}
    return [{"role": names[r], "content": t.strip()} for r, t in zip(parts[1::2], parts[2::2], strict=True)]


def _column(row: Mapping[str, Any], name: str, where: str) -> str:
    found = next((alias for alias in ALIASES[name] if alias in row), None)
    if found is None:
        raise InputError(f"{where}: has no column '{name}'; its columns are {', '.join(row)}")
    return found


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: is {_kind(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half a surrogate pair, which is not text") from None
    return value


def _said(value: Any, where: str) -> Said:
    return _string(value, where) if isinstance(value, str) else _messages(value, where)


def _answer(value: Any, where: str) -> str:
    if isinstance(value, str):
        return _string(value, where)
    messages = _messages(value, where)
    if len(messages) != 1:
        raise InputError(f"{where}: has {len(messages)} messages; a response is one")
    return _reply(messages, where)


def _listed(value: Any, where: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: is {_kind(value)}; expected a list with something in it")
    return tuple(read(item, f"{where}, item {place}") for place, item in enumerate(value, 1))


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool) and value not in (0, 1):
        raise InputError(f"{where}: is {value!r}, not true or false (or 1 or 0)")
    return bool(value)


def _rank(value: Any, where: str) -> int:
    if isinstance(value, float) and value.is_integer():  # as tables with gaps give whole numbers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{where}: is {value!r}, not a whole number (a rank; the lowest is the best)")
    return value


def _asked(prompt: Said, where: str) -> Said:
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        raise InputError(f"{where}: the prompt ends with an assistant's turn, so there is nothing to answer")
    if not prompt:
        raise InputError(f"{where}: the prompt is empty")
    return prompt


def _messages(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: is {_kind(value)}, not text and not a list of messages")
    found: list[Message] = []
    for place, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise InputError(f"{where}, message {place}: is {_kind(message)}, not an object with role and content")
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if not isinstance(role, str) or role not in ROLES:
            raise InputError(f"{where}, message {place}: role {role!r} is none of {', '.join(ROLES)}")
        found.append({"role": ROLES[role], "content": _string(content, f"{where}, message {place}, content")})
    return found


def _kind(value: Any) -> str:
    return "empty (null)" if value is None else "an empty list" if value == [] else type(value).__name__
