"""A data section → tokenised groups and a data report. Nothing is dropped or cut without being counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tether.config import DataConfig
from tether.data.demo import check_demo
from tether.data.formats import FORMATS, Example, detect, understand
from tether.data.report import DataReport, build_report
from tether.data.rows import Row, read_rows
from tether.data.template import Template
from tether.errors import InputError
from tether.types import Group, Prompt, Response

Need = Literal["text", "prompts", "responses", "preference"]

USABLE: dict[Need, tuple[str, ...]] = {
    "text": ("text",),
    "prompts": ("prompts", "preference"),
    "responses": ("prompt_response", "messages"),
    "preference": ("preference",),
}
"""What a stage needs → the formats that hold it."""


def load_groups(
    config: DataConfig, template: Template, max_context: int, *, need: Need
) -> tuple[list[Group], DataReport]:
    """Reads, tokenises once, and fits examples to the context.

    `need` is what the stage learns from: `text` in blocks of `max_tokens`, `prompts` with no response, `responses` to
    imitate, or `preference` pairs with `labels["ranking"] == (0, 1)`.

    Raises:
        InputError: bad data (file, row and column named), the wrong kind of data, or no example left.
    """
    source, limit = _source(config), min(config.max_tokens or max_context, max_context)
    rows = read_rows(config)
    found = usable_format(rows[0], config, need)
    examples = understand(rows, found, source, config.split)
    dropped: Counter[str] = Counter()
    if need == "text":
        groups, truncated = blocks(examples, template, limit), 0
    else:
        groups, truncated = fitted(examples, template, limit, config, need, dropped, source)
    if not groups:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "no tokens"
        raise InputError(f"{source}: no example is left of {len(rows)} ({reasons})")
    return groups, build_report(source, found, len(rows), groups, truncated, dropped, template)


def check_data(config: DataConfig, need: Need) -> None:
    """Reads what can be read without a tokenizer: all rows of a file, the first of what `datasets` loads.

    Raises:
        InputError: as `load_groups`, of what is wrong with the data whatever the model.
    """
    if config.path.startswith("demo:"):
        check_demo(config.path.removeprefix("demo:"), config.split)
        return
    rows = read_rows(config if Path(config.path).is_file() else config.model_copy(update={"limit": 1}))
    understand(rows, usable_format(rows[0], config, need), _source(config), config.split)


def usable_format(row: Row, config: DataConfig, need: Need) -> str:
    """The format of the data whose first row this is. InputError when a stage that needs `need` cannot use it."""
    source = _source(config)
    found = detect(list(row), source) if config.format == "auto" else config.format
    if need == "prompts" and found == "prompt_response":
        found = "prompts"  # the answer is then a column like any other: a reward function's reference
    if found not in USABLE[need]:
        usable = " or ".join(f"{name} ({' + '.join(FORMATS[name])})" for name in USABLE[need])
        raise InputError(
            f"{source}: holds {found} data (columns {', '.join(row)}), but this stage learns from {usable}"
        )
    return found


def _source(config: DataConfig) -> str:
    return f"{config.path} [{config.split}]"


def blocks(examples: Sequence[Example], template: Template, limit: int) -> list[Group]:
    """Running text cut into blocks of `limit` tokens; a block's first token is its prompt. A short rest is left out."""
    stream = [token for e in examples for token in template.document(e.text)]
    size = min(limit, len(stream))
    starts = range(0, len(stream) - size + 1, size) if size > 1 else range(0)
    return [Group(Prompt((stream[s],)), (Response(tuple(stream[s + 1 : s + size]), ended=False),)) for s in starts]


def fitted(
    examples: Sequence[Example],
    template: Template,
    limit: int,
    config: DataConfig,
    need: Need,
    dropped: Counter[str],
    source: str,
) -> tuple[list[Group], int]:
    """Examples as groups of at most `limit` tokens a response, and how many had to be cut."""
    kept, truncated = [], 0
    for example in examples:
        try:
            group = tokenised(example, template, need)
        except InputError as error:
            raise InputError(f"{source}, row {example.row}: {error}") from error
        room = limit - (need == "prompts")  # an answer has at least one token
        longest = longest_row(group)
        if longest > room:
            if config.on_too_long == "error":
                raise InputError(
                    f"{source}, row {example.row}: has {longest} tokens, over the limit of {room}; "
                    "set on_too_long to drop, truncate_prompt or truncate_response"
                )
            if config.on_too_long == "drop":
                dropped["too long"] += 1
                continue
            group = cut(group, room, config.on_too_long, template)
        if need != "prompts" and (longest_row(group) > room or not all(r.num_trained for r in group.responses)):
            dropped["no response token left"] += 1
        elif need == "prompts" and (longest_row(group) > room or not group.prompt.token_ids):
            dropped["no prompt left"] += 1
        elif need == "preference" and group.responses[0].token_ids == group.responses[1].token_ids:
            dropped["chosen and rejected are the same"] += 1
        else:
            kept.append(group)
            truncated += longest > room
    return kept, truncated


def tokenised(example: Example, template: Template, need: Need) -> Group:
    """One example's tokens."""
    if example.conversation:
        return template.conversation(example.conversation, example.meta)
    assert example.prompt is not None
    prompt = template.prompt(example.prompt, example.meta)
    if need == "prompts":
        return Group(prompt)
    responses = tuple(template.respond(prompt, text) for text in example.responses)
    if need != "preference":
        return Group(prompt, responses[:1])
    margin = {"margin": float(example.meta["margin"])} if isinstance(example.meta.get("margin"), int | float) else {}
    return Group(prompt, responses, {"ranking": (0, 1), **margin})


def longest_row(group: Group) -> int:
    """Tokens of the prompt and its longest response."""
    return len(group.prompt.token_ids) + max((len(r.token_ids) for r in group.responses), default=0)


def cut(group: Group, limit: int, how: Literal["truncate_prompt", "truncate_response"], template: Template) -> Group:
    """A group within `limit`: the prompt's beginning or the responses' ends cut off, as far as that can go.

    A begin-of-sequence token stays in front of what is left of the prompt, with at least one token after it.
    """
    if how == "truncate_prompt":
        ids = group.prompt.token_ids
        begin = ids[:1] if ids[:1] == (template.tokenizer.bos_token_id,) else ()
        room = max(1, len(ids) - (longest_row(group) - limit) - len(begin))
        return replace(group, prompt=replace(group.prompt, token_ids=begin + ids[len(begin) :][-room:]))
    room = max(0, limit - len(group.prompt.token_ids))
    return replace(group, responses=tuple(shortened(r, room) for r in group.responses))


def shortened(response: Response, room: int) -> Response:
    """A response's first `room` tokens; cut, it no longer ends its turn."""
    if len(response.token_ids) <= room:
        return response
    trained = None if response.trained is None else response.trained[:room]
    return replace(response, token_ids=response.token_ids[:room], trained=trained, ended=False)
