"""Data section → groups and report: what fits, what is cut, what is dropped, and that all of it is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tether.config import DataConfig
from tether.data.load import USABLE, Need, load_groups
from tether.data.report import DataReport, histogram, shared_prompts
from tether.data.template import Template
from tether.errors import InputError
from tether.types import Group, Prompt, Response

USER = {"role": "user", "content": "hello there"}
BOT = {"role": "assistant", "content": "I am fine"}
CRY = {"role": "assistant", "content": "what is that"}


@pytest.fixture
def load(tmp_path: Path, base: Template) -> Any:
    def load(
        rows: list[dict[str, Any]], need: Need, context: int = 64, template: Template = base, **section: Any
    ) -> tuple[list[Group], DataReport]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_groups(DataConfig(path=str(path), **section), template, context, need=need)

    return load


def test_a_comparison(load: Any, base: Template) -> None:
    groups, report = load([{"chosen": [USER, BOT], "rejected": [USER, CRY], "margin": 2, "votes": 3}], "preference")
    (group,) = groups
    assert group.labels == {"ranking": (0, 1), "margin": 2.0}
    assert [base.decode(r.token_ids, special=True) for r in group.responses] == [
        "I am fine<|end|>",
        "what is that<|end|>",
    ]
    assert group.prompt == base.prompt([USER], group.prompt.meta)
    assert group.prompt.meta == {"votes": 3, "margin": 2, "row": 1, "split": "train", "id": "1"}
    assert (report.format, report.read, report.kept) == ("preference", 1, 1)


def test_prompts_carry_their_reference_answer(load: Any) -> None:
    groups, report = load([{"prompt": [USER], "answer": "42"}], "prompts")
    assert groups[0].responses == ()
    assert groups[0].prompt.meta["answer"] == "42"
    assert report.format == "prompts"


def test_a_response_and_its_sample(load: Any) -> None:
    groups, report = load([{"prompt": [USER], "response": "I am fine"}], "responses")
    assert groups[0].responses[0].num_trained == len(groups[0].responses[0].token_ids)
    assert report.sample == "<|begin|><|user|>hello there<|end|><|assistant|>⟦I am fine<|end|>⟧"


def test_the_sample_marks_only_what_is_learnt(load: Any) -> None:
    _, report = load([{"messages": [USER, BOT, USER, CRY]}], "responses")
    turns = "<|begin|><|user|>hello there<|end|><|assistant|>⟦I am fine<|end|>⟧"
    assert report.sample == f"{turns}<|user|>hello there<|end|><|assistant|>⟦what is that<|end|>⟧"


def test_text_is_cut_into_blocks(load: Any, base: Template) -> None:
    rows = [{"text": "the cat sat"}, {"text": "hello there how are you"}]
    stream = [token for row in rows for token in base.document(row["text"])]
    groups, _ = load(rows, "text", max_tokens=4)
    assert len(groups) == len(stream) // 4
    flat = [t for g in groups for t in (*g.prompt.token_ids, *g.responses[0].token_ids)]
    assert flat == stream[: 4 * len(groups)]
    assert {len(g.prompt.token_ids) for g in groups} == {1}
    short, _ = load(rows, "text", context=1000)
    assert [*short[0].prompt.token_ids, *short[0].responses[0].token_ids] == stream


LONG = {"prompt": [USER], "response": "I am fine thank you the cat sat on the mat"}
FITS = {"prompt": [USER], "response": "I am"}


def size(group: Group) -> int:
    return len(group.prompt.token_ids) + len(group.responses[0].token_ids)


def test_too_long_is_an_error_unless_chosen_otherwise(load: Any) -> None:
    (whole,), _ = load([LONG], "responses")
    with pytest.raises(InputError, match=rf"row 2: has {size(whole)} tokens, over the limit of 14; set on_too_long to"):
        load([FITS, LONG], "responses", context=14)


def test_drop(load: Any) -> None:
    groups, report = load([FITS, LONG, LONG], "responses", context=14, on_too_long="drop")
    assert (len(groups), report.kept, report.truncated, report.dropped) == (1, 1, 0, {"too long": 2})
    with pytest.raises(InputError, match=r"no example is left of 1 \(1 too long\)"):
        load([LONG], "responses", context=14, on_too_long="drop")


def test_truncate_response_takes_its_end(load: Any, base: Template) -> None:
    (whole,), _ = load([LONG], "responses")
    (cut,), report = load([LONG], "responses", context=14, on_too_long="truncate_response")
    assert size(cut) == 14
    assert cut.prompt.token_ids == whole.prompt.token_ids
    assert cut.responses[0].token_ids == whole.responses[0].token_ids[: len(cut.responses[0].token_ids)]
    assert not cut.responses[0].ended
    assert cut.responses[0].token_ids[-1] != base.end_id
    assert report.truncated == 1


def test_truncate_prompt_takes_its_beginning_but_keeps_the_begin(load: Any, base: Template) -> None:
    long = {"prompt": [{"role": "user", "content": "the cat sat on the mat"}], "response": "I am"}
    (whole,), _ = load([long], "responses")
    (cut,), report = load([long], "responses", context=11, on_too_long="truncate_prompt")
    assert size(cut) == 11
    assert cut.responses == whole.responses
    kept = cut.prompt.token_ids
    assert kept[0] == base.tokenizer.bos_token_id
    assert kept[1:] == whole.prompt.token_ids[-(len(kept) - 1) :]
    assert report.truncated == 1


def test_no_token_left_is_dropped_and_counted(load: Any) -> None:
    (whole,), _ = load([FITS], "responses")
    room = len(whole.prompt.token_ids)
    rows = [{"prompt": [{"role": "user", "content": "a"}], "response": "b"}, FITS]
    groups, report = load(rows, "responses", context=room, on_too_long="truncate_response")
    assert len(groups) == 1
    assert report.dropped == {"no response token left": 1}
    assert report.truncated == 0


def test_pairs_that_truncation_makes_equal_are_dropped(load: Any) -> None:
    """They would give a loss of ln 2 for ever."""
    pair = {"prompt": [USER], "chosen": "I am fine thank you", "rejected": "I am fine what"}
    (whole,), _ = load([pair], "preference")
    start = len(whole.prompt.token_ids)
    first, second = (r.token_ids for r in whole.responses)
    same = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    groups, report = load(
        [{**pair, "rejected": "what"}, pair], "preference", context=start + same, on_too_long="truncate_response"
    )
    assert len(groups) == 1
    assert report.dropped == {"responses ranked apart are the same": 1}
    with pytest.raises(InputError, match="1 responses ranked apart are the same"):
        load([{**pair, "rejected": pair["chosen"]}], "preference")


def test_a_prompt_needs_room_for_an_answer(load: Any) -> None:
    (group,), _ = load([{"prompt": [USER]}], "prompts")
    tokens = len(group.prompt.token_ids)
    assert len(load([{"prompt": [USER]}], "prompts", context=tokens + 1)[0]) == 1
    with pytest.raises(InputError, match=f"has {tokens} tokens"):
        load([{"prompt": [USER]}], "prompts", context=tokens)


@pytest.mark.parametrize(
    ("row", "need"),
    [
        ({"prompt": "a"}, "responses"),
        ({"text": "a"}, "prompts"),
        ({"prompt": "a", "response": "b"}, "preference"),
        ({"messages": [USER, BOT]}, "text"),
    ],
)
def test_the_wrong_kind_of_data(load: Any, row: dict[str, Any], need: Need) -> None:
    with pytest.raises(InputError, match=f"but this stage learns from {USABLE[need][0]}"):
        load([row], need)


def test_a_template_s_refusal_names_the_row(load: Any, plain: Template) -> None:
    rows = [{"prompt": "hello", "response": "there"}, {"prompt": [USER], "response": "there"}]
    with pytest.raises(InputError, match=r"rows\.jsonl \[train\], row 2: plain has no chat template"):
        load(rows, "responses", template=plain)


def test_the_report_counts_and_is_plain_json(load: Any) -> None:
    groups, report = load([FITS, FITS, LONG], "responses")
    again = load([FITS, FITS, LONG], "responses")[1]
    assert report.duplicates == 1
    assert sum(report.prompt_tokens.values()) == sum(report.response_tokens.values()) == len(groups) == 3
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict() == again.as_dict()
    assert "prompt_response, 3 read, 3 kept, 0 truncated, 1 duplicates" in report.lines()[0]


@given(st.lists(st.integers(1, 5000), max_size=50))
def test_a_histogram_loses_nothing(lengths: list[int]) -> None:
    bins = histogram(lengths)
    assert sum(bins.values()) == len(lengths)
    for name, count in bins.items():
        low, high = int(name.split("-")[0]), int(name.split("-")[-1])
        assert sum(low <= n <= high for n in lengths) == count


def test_prompts_shared_between_splits() -> None:
    train = [Group(Prompt((1, 2, 3), text="hi")), Group(Prompt((1, 2), text="yo"))]
    shared_prompts(train, [Group(Prompt((1, 2, 4), text="hey"))])
    with pytest.raises(InputError, match="1 of 2 held-out prompts are in the training data too, the first 'yo'"):
        shared_prompts(train, [Group(Prompt((9, 9))), Group(Prompt((1, 2), text="yo", meta={"row": 7}))])


def test_blocks_of_text_that_start_alike_share_no_prompt() -> None:
    shared_prompts([Group(Prompt((0,)), (Response((1,)),))], [Group(Prompt((0,)), (Response((2,)),))])


@given(
    turns=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    limit=st.integers(4, 24),
    how=st.sampled_from(["drop", "truncate_prompt", "truncate_response"]),
)
def test_nothing_is_over_the_limit_and_everything_is_counted(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, turns: list[int], limit: int, how: Any
) -> None:
    template = Template.load(folder)
    path = tmp_path_factory.mktemp("load") / "a.jsonl"
    rows = [{"prompt": [USER | {"content": "a " * n}], "response": "b " * (13 - n)} for n in turns]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(path), on_too_long=how)
    try:
        groups, report = load_groups(config, template, limit, need="responses")
    except InputError:
        assume(False)
    assert all(size(group) <= limit and group.responses[0].num_trained > 0 for group in groups)
    assert report.read == len(turns) == report.kept + sum(report.dropped.values())
    for group in groups:
        assert group.responses[0].ended == (group.responses[0].token_ids[-1] == template.end_id)
