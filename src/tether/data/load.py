"""A data section → tokenised groups and a data report. Nothing is dropped or cut without being counted."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from tether.config import DataConfig
from tether.data.demo import check_demo
from tether.data.formats import FORMATS, Example, detect, understand
from tether.data.report import DataReport, build_report
from tether.data.rows import Row, read_rows
from tether.data.steps import stepwise
from tether.data.sums import NAMES as SUMS
from tether.data.template import Template
from tether.errors import InputError
from tether.types import Group, Prompt, Response

Need = Literal["text", "prompts", "responses", "preference", "unpaired", "steps"]

USABLE: dict[Need, tuple[str, ...]] = {
    "text": ("text",),
    "prompts": ("prompts", "preference", "ranking"),
    "responses": ("prompt_response", "messages"),
    "preference": ("preference", "ranking"),
    "unpaired": ("unpaired", "preference", "ranking"),
    "steps": ("steps",),
}
"""What a stage needs → the formats that hold it."""


def load_groups(
    config: DataConfig, template: Template, max_context: int, *, need: Need
) -> tuple[list[Group], DataReport]:
    """Reads, tokenises once, and fits examples to the context.

    `need` is what the stage learns from: `text` in blocks of `max_tokens`, `prompts` with no response, `responses` to
    imitate, `preference` with `labels["ranking"]` (0 the best), `unpaired` with `labels["desirable"]`, or `steps` with
    `labels["steps"]`; see `Group`.

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
        everyone, groups = len(groups), [g for g in groups if in_fold(g, config.fold)]
        dropped.update({"of other folds": everyone - len(groups)} if len(groups) < everyone else {})
    if not groups:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "no tokens"
        raise InputError(f"{source}: no example is left of {len(rows)} ({reasons})")
    return groups, build_report(source, found, len(rows), groups, truncated, dropped, template)


def check_data(config: DataConfig, need: Need) -> None:
    """Reads what can be read without a tokenizer: all rows of a file, the first of what `datasets` loads.

    Raises:
        InputError: as `load_groups`, of what is wrong with the data whatever the model.
    """
    scheme, _, name = config.path.partition(":")
    if scheme == "demo" and name not in SUMS:  # its first row costs the reading of all
        check_demo(name, config.split)
        return
    rows = read_rows(config if Path(config.path).is_file() else config.model_copy(update={"limit": 1}))
    understand(rows, usable_format(rows[0], config, need), _source(config), config.split)


def usable_format(row: Row, config: DataConfig, need: Need) -> str:
    """The format of the data whose first row this is. InputError when a stage that needs `need` cannot use it."""
    source = _source(config)
    if need == "text" and config.fold is not None:
        raise InputError(f"{source}: fold = '{config.fold}' is a share of the prompts, and running text has none")
    found = detect(list(row), source) if config.format == "auto" else config.format
    if need == "prompts" and found in ("prompt_response", "unpaired", "steps"):
        found = "prompts"  # the answer is then a column like any other: a reward function's reference
    if need == "responses" and found == "unpaired":
        found = "prompt_response"  # and so is a label
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
            group = tokenised(example, template, need, config.step_delimiter)
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
        if reason := useless(group, room, need):
            dropped[reason] += 1
        else:
            alone = unpaired(group) if need == "unpaired" else [group]
            dropped.update({} if alone else {"ranked all alike": 1})
            kept += alone
            truncated += longest > room
    return kept, truncated


def in_fold(group: Group, fold: str | None) -> bool:
    """Whether a prompt is of the part of the data that `DataConfig.fold` names: a hash of its tokens decides.

    >>> [in_fold(Group(Prompt((7, 8))), fold) for fold in (None, "1/2", "-1/2", "2/2")]
    [True, False, True, True]
    """
    if fold is None:
        return True
    which, count = (int(part) for part in fold.split("/"))
    place = zlib.crc32(repr(group.prompt.token_ids).encode()) % count + 1
    return place == which if which > 0 else place != -which


def useless(group: Group, room: int, need: Need) -> str:
    """Why a group within its limit has nothing left to learn from; '' when it has."""
    over = longest_row(group) > room
    if need == "prompts":
        return "no prompt left" if over or not group.prompt.token_ids else ""
    if over or not all(r.num_trained for r in group.responses):
        return "no response token left"
    ranks = group.labels.get("ranking", ())
    apart = combinations(zip(ranks, (r.token_ids for r in group.responses), strict=False), 2)
    if any(one != other and same == twin for (one, same), (other, twin) in apart):
        return "responses ranked apart are the same"
    return ""


def unpaired(group: Group) -> list[Group]:
    """A ranking as examples of one response each: those ranked first are desirable, last undesirable; one that is
    unpaired already, as it is."""
    if "ranking" not in group.labels:
        return [group]
    ranks = group.labels["ranking"]
    ends = {min(ranks): True, max(ranks): False} if min(ranks) < max(ranks) else {}
    return [
        Group(group.prompt, (response,), {"desirable": ends[rank]})
        for rank, response in zip(ranks, group.responses, strict=True)
        if rank in ends
    ]


def tokenised(example: Example, template: Template, need: Need, delimiter: str) -> Group:
    """One example's tokens."""
    if example.conversation:
        return template.conversation(example.conversation, example.meta)
    assert example.prompt is not None
    prompt = template.prompt(example.prompt, example.meta)
    if need == "prompts":
        return Group(prompt)
    if need == "steps":
        labels = [bool(label) for label in example.labels]
        return stepwise(prompt, example.responses, labels, template, delimiter)
    responses = tuple(template.respond(prompt, text) for text in example.responses)
    if need == "responses":
        return Group(prompt, responses[:1])
    if len(responses) == 1:
        return Group(prompt, responses, {"desirable": bool(example.labels[0])})
    margin = {"margin": float(example.meta["margin"])} if isinstance(example.meta.get("margin"), int | float) else {}
    return Group(prompt, responses, {"ranking": example.labels, **margin})


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
    responses = tuple(shortened(r, room) for r in group.responses)
    if "steps" not in group.labels:
        return replace(group, responses=responses)
    return replace(group, responses=responses, labels={"steps": group.labels["steps"][: responses[0].num_trained]})


def shortened(response: Response, room: int) -> Response:
    """A response's first `room` tokens; cut, it no longer ends its turn."""
    if len(response.token_ids) <= room:
        return response
    trained = None if response.trained is None else response.trained[:room]
    return replace(response, token_ids=response.token_ids[:room], trained=trained, ended=False)
