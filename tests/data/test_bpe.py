"""The vocabulary learnt from text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.data.bpe import BEGIN, END, PAD, SPECIAL_TOKENS, render, train_tokenizer
from tether.data.template import Template
from tether.errors import InputError

TURNS = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "I am fine"}]


def test_the_same_texts_give_the_same_files(tmp_path: Path) -> None:
    texts = ["hello there, how are you?", "the cat sat on the mat", "zażółć 😀"]
    for name in ("a", "b"):
        train_tokenizer(texts, 290, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "tokenizer.json" in files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_special_tokens_come_first_and_pad_is_no_end(base: Template) -> None:
    tokenizer = base.tokenizer
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BEGIN, END, PAD)
    assert base.end_id == 3
    assert base.pad_id == 4
    assert len(tokenizer) == 300


def test_special_tokens_in_the_texts_are_not_learnt(tmp_path: Path) -> None:
    """Else the most frequent "words" of chat text would be pieces of `<|user|>`, never to be used."""
    marked = train_tokenizer([render(TURNS)] * 50, 300, tmp_path / "marked")
    bare = train_tokenizer([turn["content"] for turn in TURNS] * 50, 300, tmp_path / "bare")
    assert marked.get_vocab() == bare.get_vocab()
    assert marked.tokenize("I am fine") == ["I", "Ġam", "Ġfine"]


def test_the_chat_template_writes_what_render_writes(base: Template) -> None:
    assert base.tokenizer.apply_chat_template(TURNS, tokenize=False) == render(TURNS)
    asked = base.tokenizer.apply_chat_template(TURNS[:1], tokenize=False, add_generation_prompt=True)
    assert render(TURNS).startswith(asked)
    assert asked.endswith("<|assistant|>")


def test_it_loads_beside_the_config_of_a_model(folder: Path, tmp_path: Path) -> None:
    """A config.json of another family must not change how the vocabulary is read."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "llama", "eos_token_id": 3}')
    text = " hello  there\n how are you?"
    assert Template.load(tmp_path).document(text) == Template.load(folder).document(text)


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_every_text_survives(session_base: Template, text: str) -> None:
    ids = session_base.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert session_base.decode(ids, special=True) == text


@pytest.fixture(scope="module")
def session_base(folder: Path) -> Template:
    return Template.load(folder)


def test_too_small_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 261"):
        train_tokenizer(["a"], 260, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_roles_are_refused(base: Template) -> None:
    with pytest.raises(InputError, match="roles user and assistant, not system"):
        base.prompt([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}], {})
