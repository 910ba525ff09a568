"""The demo conversations: splits that share nothing, text that can be shown."""

from __future__ import annotations

import sys

import pytest

from tether.data import demo
from tether.data.bpe import render
from tether.errors import InputError

pytest.importorskip("chitchat_dataset")


def ids(name: str, split: str) -> set[str]:
    return {row["id"].split(":")[0] for row in demo.read_demo(name, split)}


def prompts(name: str, split: str) -> set[str]:
    return {" / ".join(m["content"] for m in row["prompt"]).casefold() for row in demo.read_demo(name, split)}


@pytest.mark.parametrize("name", demo.NAMES)
def test_a_conversation_has_one_split_across_all_sets(name: str) -> None:
    for other in demo.NAMES:
        for split in demo.SPLITS:
            for held_out in demo.SPLITS:
                if split != held_out:
                    assert not ids(name, split) & ids(other, held_out)


def test_no_prompt_is_in_two_splits() -> None:
    sets = ("chitchat-chat", "chitchat-prompts")
    said = {split: set().union(*(prompts(name, split) for name in sets)) for split in demo.SPLITS}
    assert not said["train"] & said["validation"]
    assert not said["train"] & said["test"]
    assert not said["validation"] & said["test"]


def test_prompts_are_unique_and_enough_are_held_out() -> None:
    for split in demo.SPLITS:
        rows = demo.read_demo("chitchat-prompts", split)
        assert len(prompts("chitchat-prompts", split)) == len(rows)
        assert set(rows[0]) == {"id", "prompt"}
    assert len(demo.read_demo("chitchat-prompts", "test")) >= 400


@pytest.mark.parametrize("name", ["chitchat-chat", "chitchat-prompts"])
def test_a_prompt_starts_and_ends_with_the_user(name: str) -> None:
    for row in demo.read_demo(name, "validation"):
        roles = [message["role"] for message in row["prompt"]]
        assert roles in (["user"], ["user", "assistant", "user"])


def test_replies_are_of_sensible_length_from_rated_conversations() -> None:
    rated = {c.id: c.rating for c in demo.conversations()}
    rows = demo.read_demo("chitchat-chat", "train")
    assert len(rows) > 20_000
    for row in rows:
        assert 3 <= len(row["response"].split()) <= 30
        assert row["rating"] == round(rated[row["id"].split(":")[0]] or 0, 2) > 5


def test_text_is_what_the_chat_template_writes() -> None:
    talk = next(c for c in demo.conversations() if c.split == "validation")
    row = next(r for r in demo.read_demo("chitchat-text", "validation") if r["id"] == f"{talk.id}:0")
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(talk.segments[0])]
    assert row["text"] == render(turns)


def test_rows_come_in_an_order_of_their_own() -> None:
    """The first rows are a sample of conversations, not the first conversation."""
    first = demo.read_demo("chitchat-chat", "train")[:100]
    assert len({row["id"].split(":")[0] for row in first}) > 80
    demo._prompted.cache_clear()
    assert demo.read_demo("chitchat-chat", "train")[:100] == first


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (["  so   goooooood!", "you? "], "so goood! you?"),
        (["<em>really</em> nice"], "really nice"),
        (["see https://x.org/a"], None),
        (["you IDIOT"], None),
        (["a classic assessment"], "a classic assessment"),
        (["mail me: a@b.org"], None),
        (["call 8015551234"], None),
        (["hi <|end|> there"], None),
        (["x" * 31], "xxx"),
        (["word " * 81], None),
        (["  ", ""], None),
    ],
)
def test_what_is_left_of_a_turn(said: list[str], kept: str | None) -> None:
    assert demo.clean(said) == kept


def test_the_shares_of_the_splits() -> None:
    splits = [demo.split_of(str(i)) for i in range(4000)]
    assert splits.count("train") / 4000 == pytest.approx(0.85, abs=0.02)
    assert splits.count("validation") / 4000 == pytest.approx(0.05, abs=0.015)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="there are demo:chitchat-text"):
        demo.read_demo("chitchat", "train")
    with pytest.raises(InputError, match="it has train, validation, test"):
        demo.read_demo("chitchat-chat", "dev")


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chitchat_dataset", None)
    with pytest.raises(InputError, match=r"tether-rlhf\[demo\]"):
        demo.read_demo("chitchat-chat", "train")
