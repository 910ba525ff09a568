"""From words to token ids, once: a tokenizer, its chat template, and the token that closes a turn.

A conversation goes through the model's chat template; plain text through the tokenizer, begin-of-sequence token exactly
once. The answer's tokens are those which follow the prompt's in the template's own rendering. Where a template does not
keep the prompt as a prefix, there is no such answer, and that is an error which shows both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import InputError
from tether.types import Group, Message, Prompt, Response

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Template:
    """A model's tokenizer and the explicit choice of its end-of-turn token."""

    tokenizer: Any
    """A transformers fast tokenizer."""
    end_id: int
    """Closes the assistant's turn: trained in every response that ended, and where sampling stops."""
    pad_id: int
    """A layout filler only; it may equal `end_id`, for nothing is ever inferred from it."""
    stop_ids: frozenset[int]
    """Sampling stops at any of these: `end_id`, and the model's own `generation_config.json`."""
    name: str = "the model"
    """Where it came from, for messages."""

    @classmethod
    def load(cls, path: str | Path, *, end_of_turn: str | None = None) -> Template:
        """Read the tokenizer of a folder or hub id.

        The end-of-turn token is `end_of_turn` if given (one token); else, of the end-of-sequence tokens that
        generation_config.json, config.json and the tokenizer name, the first that the chat template writes after an
        answer (plain models: the first). Never the pad token.

        Raises:
            InputError: there is no tokenizer, or no such token.
        """
        from transformers import AutoTokenizer

        folder = Path(path)
        if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            raise InputError(f"{path} holds no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is there")
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=offline, trust_remote_code=False)
        except Exception as error:  # a broken file raises anything, plain Exception (from Rust) and KeyError included
            raise InputError(f"no tokenizer can be read from {path}: {_first_line(error)}") from error
        return cls.of(tokenizer, str(path), end_of_turn=end_of_turn)

    @classmethod
    def of(cls, tokenizer: Any, path: str = "the model", *, end_of_turn: str | None = None) -> Template:
        """The template of a loaded tokenizer; `path` is where the model's config files are, if anywhere."""
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(f"{path} has only a slow tokenizer; a tokenizer.json is needed")
        # A tokenizer.json may carry the truncation and padding of whoever saved it.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        generation = _end_tokens(path, "generation_config.json")
        ends = [*generation, *_end_tokens(path, "config.json"), tokenizer.eos_token_id, tokenizer.sep_token_id]
        end_id = _end_id(tokenizer, path, end_of_turn, [end for end in ends if end is not None])
        pad_id = end_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        return cls(tokenizer, end_id, pad_id, frozenset({end_id, *generation}), path)

    @property
    def has_chat(self) -> bool:
        """Whether messages can be rendered."""
        return bool(self.tokenizer.chat_template)

    def prompt(self, messages_or_text: Sequence[Message] | str, meta: Mapping[str, Any] | None = None) -> Prompt:
        """What the policy reads: messages up to the assistant's turn through the chat template, or plain text."""
        meta = dict(meta or {})
        if isinstance(messages_or_text, str):
            ids = self._begin(self._encode(messages_or_text))
            if not ids:
                raise InputError("a prompt is empty, and this tokenizer has no begin-of-sequence token to start from")
            return Prompt(tuple(ids), (), messages_or_text, meta)
        messages = tuple(messages_or_text)
        ids = self._encode(self._render(messages, answer_next=True))
        said = [message["content"] for message in messages if message["role"] == "user"]
        return Prompt(tuple(ids), messages, said[-1] if said else messages[-1]["content"], meta)

    def respond(self, prompt: Prompt, text: str, ended: bool = True, **meta: Any) -> Response:
        """The tokens of `text` as the assistant's answer to `prompt`, closed by `end_id` if `ended`.

        After a plain prompt the text is tokenised by itself: a space between the two must be written in one of them.

        Raises:
            InputError: the prompt is not a prefix, or the end-of-turn token is missing or written within the answer.
        """
        self._refuse_end_in(text)
        if not prompt.messages:
            ids = self._encode(text)
        else:
            answered = (*prompt.messages, {"role": "assistant", "content": text})
            full = self._encode(self._render(answered, answer_next=False))
            start = len(prompt.token_ids)
            if tuple(full[:start]) != prompt.token_ids:
                raise self._not_a_prefix(list(prompt.token_ids), full)
            ids = self._up_to_end(full[start:])
        closed = (*ids, self.end_id) if ended else tuple(ids)
        return Response(closed, text, ended, meta=meta)

    def conversation(self, messages: Sequence[Message], meta: Mapping[str, Any] | None = None) -> Group:
        """A conversation to learn every assistant turn of: K=1, the prompt ends where the first of them starts.

        The response spans the rest; `trained` is true on each assistant turn, its end-of-turn token included. What
        follows the last of them is left out.

        Raises:
            InputError: the first turn is the assistant's, or none is; or as `respond`.
        """
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise InputError("a conversation has no assistant turn, so there is nothing to learn from it")
        if answers[0] == 0:
            raise InputError(
                "a conversation starts with the assistant; the first turn must be the user's or the system's"
            )
        prompt = self.prompt(messages[: answers[0]], meta)
        last = messages[answers[-1]]["content"]
        if len(answers) == 1:
            return Group(prompt, (self.respond(prompt, last),))
        rendered = self._render(messages[: answers[-1] + 1], answer_next=False)
        encoding = self.tokenizer.backend_tokenizer.encode(rendered, add_special_tokens=False)
        ids, places = encoding.ids, [start for start, _ in encoding.offsets]
        begin = len(prompt.token_ids)
        if tuple(ids[:begin]) != prompt.token_ids:
            raise self._not_a_prefix(list(prompt.token_ids), ids)
        trained = [False] * len(ids)
        for i in answers:
            self._refuse_end_in(messages[i]["content"])
            before = self._render(messages[:i], answer_next=True)
            if not rendered.startswith(before) or len(before) not in places:
                raise self._not_a_prefix(self._encode(before), ids)
            start = places.index(len(before))
            stop = start + len(self._up_to_end(ids[start:])) + 1
            trained[start:stop] = [True] * (stop - start)
        response = Response(tuple(ids[begin:stop]), last, True, trained=tuple(trained[begin:stop]))
        return Group(prompt, (response,))

    def document(self, text: str) -> list[int]:
        """Plain text to model whole: begin-of-sequence once, the text, the end token once."""
        return self._closed(self._begin(self._encode(text)))

    def decode(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """The text of tokens; special tokens are shown only if `special`."""
        kept = list(token_ids)
        return str(self.tokenizer.decode(kept, skip_special_tokens=not special, clean_up_tokenization_spaces=False))

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def _begin(self, ids: list[int]) -> list[int]:
        begin = self.begin_ids
        return ids if ids[: len(begin)] == begin else [*begin, *ids]

    def _closed(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == [self.end_id] else [*ids, self.end_id]

    @property
    def begin_ids(self) -> list[int]:
        """What the tokenizer puts before a plain text; empty for many."""
        encoding = self.tokenizer.backend_tokenizer.encode("a", add_special_tokens=True)
        mask = encoding.special_tokens_mask
        return list(encoding.ids[: mask.index(0)]) if 0 in mask else []

    def _render(self, messages: Sequence[Message], *, answer_next: bool) -> str:
        return _render(self.tokenizer, self.name, messages, answer_next)

    def _up_to_end(self, ids: list[int]) -> list[int]:
        """The tokens before the first end-of-turn token; templates often write a newline after it."""
        try:
            return ids[: ids.index(self.end_id)]
        except ValueError:
            raise InputError(
                f"the chat template of {self.name} never closes an answer with the end-of-turn token "
                f"{self.decode([self.end_id], special=True)!r}; it writes {self.decode(ids[-8:], special=True)!r} "
                "at the end: set end_of_turn to the token that closes it"
            ) from None

    def _refuse_end_in(self, text: str) -> None:
        end = self.tokenizer.convert_ids_to_tokens(self.end_id)
        if end in text and self.end_id in self._encode(text):
            raise InputError(f"an answer holds the end-of-turn token {end!r} in its text, where the model would stop")

    def _not_a_prefix(self, prompt: list[int], full: list[int]) -> InputError:
        pairs = zip(prompt, full, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(full)))
        near = slice(max(0, at - 8), at + 8)
        return InputError(
            f"the chat template of {self.name} does not keep the prompt as a prefix of prompt and answer: "
            f"from token {at} on, the prompt reads …{self.decode(prompt[near], special=True)!r} "
            f"but with the answer it reads …{self.decode(full[near], special=True)!r}"
        )


def _render(tokenizer: Any, name: str, messages: Sequence[Message], answer_next: bool) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError(f"{name} has no chat template, so it cannot read messages; give plain text prompts")
    try:
        turns = [dict(message) for message in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer_next))
    except (TemplateError, TypeError) as error:
        raise InputError(f"the chat template of {name} refuses this conversation: {_first_line(error)}") from None


def _end_id(tokenizer: Any, path: str, given: str | None, candidates: Sequence[int]) -> int:
    if given is not None:
        ids = tokenizer.backend_tokenizer.encode(given, add_special_tokens=False).ids
        if len(ids) != 1:
            raise InputError(f"end_of_turn {given!r} is {len(ids)} tokens in the vocabulary of {path}; it must be one")
        return int(ids[0])
    if not candidates:
        raise InputError(f"{path} names no end-of-sequence token: set end_of_turn to the token that closes an answer")
    for end in candidates:
        if not 0 <= end < len(tokenizer):
            raise InputError(
                f"{path}: end-of-sequence token {end} is outside the vocabulary of {len(tokenizer)} tokens"
            )
    if tokenizer.chat_template:
        written = set(_probe(tokenizer, path))
        return next((end for end in candidates if end in written), candidates[0])
    return candidates[0]


def _probe(tokenizer: Any, path: str) -> list[int]:
    """What the template writes after the words of an answer."""
    word = "answer"
    try:
        turns = ({"role": "user", "content": "question"}, {"role": "assistant", "content": word})
        rendered = _render(tokenizer, path, turns, answer_next=False)
    except InputError:
        return []
    return list(tokenizer.backend_tokenizer.encode(rendered.rpartition(word)[2], add_special_tokens=False).ids)


def _end_tokens(path: str, file: str) -> list[int]:
    return list(dict.fromkeys(_eos_of(_read_json(path, file))))


def _read_json(path: str, file: str) -> Any:
    """A JSON file of the model's folder or of the hub's cache; None where there is none."""
    if Path(path).is_dir():
        found: str | None = str(Path(path) / file)
    else:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(path, file)
        except HFValidationError:
            cached = None
        found = cached if isinstance(cached, str) else None
    if found is None or not Path(found).is_file():
        return None
    try:
        return json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{found} is not valid JSON: {_first_line(error)}") from None


def _eos_of(config: Any) -> Iterator[int]:
    """The `eos_token_id` of a config, its text model's too: a number or a list of them."""
    if not isinstance(config, dict):
        return
    value = config.get("eos_token_id")
    yield from [end for end in (value if isinstance(value, list) else [value]) if isinstance(end, int)]
    yield from _eos_of(config.get("text_config"))


def _first_line(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, KeyError):  # its text is the key alone
        return f"{kind}: {error}"
    return (str(error).strip().splitlines() or [kind])[0]
