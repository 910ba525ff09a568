"""Words → token ids: prefixes, ends of turn, one begin-of-sequence token."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.data.template import Template
from tether.errors import InputError

USER = {"role": "user", "content": "how are you"}
BOT = {"role": "assistant", "content": "I am fine"}


def copy(folder: Path, out: Path, **files: Any) -> Path:
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    for name, content in files.items():
        (out / f"{name}.json").write_text(json.dumps(content))
    return out


def test_an_answer_is_what_follows_the_prompt(base: Template) -> None:
    prompt = base.prompt([USER], {"id": "a"})
    response = base.respond(prompt, "I am fine", rating=3)
    assert base.decode(prompt.token_ids, special=True) == "<|begin|><|user|>how are you<|end|><|assistant|>"
    assert base.decode(response.token_ids, special=True) == "I am fine<|end|>"
    assert response.token_ids[-1] == base.end_id
    assert (prompt.text, prompt.messages, prompt.meta) == ("how are you", (USER,), {"id": "a"})
    assert (response.text, response.ended, response.meta) == ("I am fine", True, {"rating": 3})
    assert base.respond(prompt, "I am fine", ended=False).token_ids == response.token_ids[:-1]


def test_what_a_template_writes_after_the_end_is_left_out(chatml: Template) -> None:
    prompt = chatml.prompt([USER], {})
    assert (
        chatml.decode(prompt.token_ids, special=True)
        == "<|im_start|>user\nhow are you<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chatml.decode(chatml.respond(prompt, "fine").token_ids, special=True) == "fine<|im_end|>"


def test_an_end_of_turn_in_the_prompt_does_not_count(chatml: Template) -> None:
    """The user's turn ends with the same token; the answer is cut at its own."""
    prompt = chatml.prompt([USER, BOT, USER], {})
    assert prompt.token_ids.count(chatml.end_id) == 3
    assert chatml.respond(prompt, "fine").token_ids.count(chatml.end_id) == 1


@pytest.mark.parametrize("kind", ["base", "chatml"])
def test_assistant_turns_alone_are_trained(kind: str, request: pytest.FixtureRequest) -> None:
    template: Template = request.getfixturevalue(kind)
    group = template.conversation([USER, BOT, USER, {"role": "assistant", "content": "the cat"}, USER], {"id": "x"})
    (response,) = group.responses
    assert group.prompt == template.prompt([USER], {"id": "x"})
    assert response.trained is not None
    pairs = list(zip(response.token_ids, response.trained, strict=True))
    end = template.decode([template.end_id], special=True)
    assert template.decode([t for t, kept in pairs if kept], special=True) == f"I am fine{end}the cat{end}"
    between = {"base": "<|user|>how are you<|end|><|assistant|>"}
    between["chatml"] = "\n<|im_start|>user\nhow are you<|im_end|>\n<|im_start|>assistant\n"
    assert template.decode([t for t, kept in pairs if not kept], special=True) == between[kind]
    # The last turn's tokens are the ones `respond` gives to the whole history.
    last = template.respond(template.prompt([USER, BOT, USER], {}), "the cat")
    assert response.token_ids[-len(last.token_ids) :] == last.token_ids


def test_one_answer_is_a_plain_response(base: Template) -> None:
    group = base.conversation([USER, BOT])
    assert group.responses == (base.respond(group.prompt, "I am fine"),)


@pytest.mark.parametrize(
    ("messages", "says"), [([USER], "no assistant turn"), ([BOT, USER, BOT], "starts with the assistant")]
)
def test_conversations_with_nothing_to_learn(base: Template, messages: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        base.conversation(messages)


def test_a_prompt_that_is_no_prefix_shows_both(tokenizer: Any) -> None:
    thinks = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>the thought:{% endif %}"
    )
    template = Template.of(tokenizer(chat_template=thinks), "thinker")
    with pytest.raises(InputError, match="does not keep the prompt as a prefix") as caught:
        template.respond(template.prompt([USER]), "I am fine")
    assert "thinker" in str(caught.value)
    assert "<|assistant|>the thought" in str(caught.value)
    assert "I am fine" in str(caught.value)


def test_a_template_that_forgets_earlier_turns_is_refused(tokenizer: Any) -> None:
    """As those that strip old thoughts: the second answer's history is not the first's."""
    forgets = (
        "{% for m in messages %}<|{{ m['role'] }}|>"
        "{{ m['content'] if loop.last or m['role'] == 'user' else 'gone' }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    template = Template.of(tokenizer(chat_template=forgets))
    group = template.conversation([USER, BOT])
    assert template.decode(group.responses[0].token_ids) == "I am fine"
    # Where every answer is last in its own rendering, the earlier one reads differently later on.
    flipped = forgets.replace(
        "loop.last or m['role'] == 'user'", "(not loop.last) or m['role'] == 'assistant' and false"
    )
    template = Template.of(tokenizer(chat_template=flipped))
    with pytest.raises(InputError, match="prefix"):
        template.conversation([USER, BOT, USER, BOT])


def test_a_merge_across_the_boundary_is_an_error(tokenizer: Any) -> None:
    """h + e is one token, so the prompt's last token is no longer there."""
    glued = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    template = Template.of(tokenizer(chat_template=glued))
    assert template.tokenizer.tokenize("he") == ["he"]
    with pytest.raises(InputError, match="prefix"):
        template.respond(template.prompt([{"role": "user", "content": "h"}]), "e")


def test_an_answer_holding_the_end_of_turn_is_refused(base: Template, plain: Template) -> None:
    for template, prompt in ((base, base.prompt([USER])), (plain, plain.prompt("how"))):
        with pytest.raises(InputError, match="holds the end-of-turn token '<|end|>'".replace("|", r"\|")):
            template.respond(prompt, "I am<|end|>fine")


def test_plain_text_has_one_begin(plain: Template) -> None:
    prompt = plain.prompt("how are you")
    begin = plain.tokenizer.bos_token_id
    assert prompt.token_ids[0] == begin
    assert plain.prompt("<|begin|>how are you").token_ids == prompt.token_ids
    assert prompt.token_ids.count(begin) == 1
    assert plain.decode(plain.respond(prompt, " fine").token_ids, special=True) == " fine<|end|>"
    assert plain.document("hello") == [begin, *plain.tokenizer.encode("hello", add_special_tokens=False), plain.end_id]
    assert plain.document("<|begin|>hello<|end|>") == plain.document("hello")


def test_a_closing_token_of_the_tokenizer_stays_out_of_the_prompt(tokenizer: Any) -> None:
    template = Template.of(tokenizer(begin=True, closing=True, chat_template=None))
    assert template.prompt("hello").token_ids[-1] != template.end_id
    assert template.document("hello").count(template.end_id) == 1


def test_a_begin_in_the_template_is_not_doubled(tokenizer: Any) -> None:
    template = Template.of(tokenizer(begin=True))
    ids = template.respond(template.prompt([USER]), "fine").token_ids
    assert template.prompt([USER]).token_ids.count(template.tokenizer.bos_token_id) == 1
    assert template.tokenizer.bos_token_id not in ids


def test_plain_models_refuse_messages(plain: Template) -> None:
    with pytest.raises(InputError, match="plain has no chat template"):
        plain.prompt([USER])
    assert not plain.has_chat


def test_an_empty_prompt_needs_a_begin(base: Template, plain: Template) -> None:
    assert plain.prompt("").token_ids == (plain.tokenizer.bos_token_id,)
    with pytest.raises(InputError, match="empty"):
        base.prompt("")


@pytest.mark.parametrize(
    ("files", "end", "stops"),
    [
        ({}, "<|end|>", {3}),
        # The model's own first choice is never written by the template: the one that closes an answer is taken.
        ({"generation_config": {"eos_token_id": [0, 3]}}, "<|end|>", {0, 3}),
        ({"generation_config": {"eos_token_id": 0}}, "<|end|>", {0, 3}),
        ({"config": {"text_config": {"eos_token_id": 3}}}, "<|end|>", {3}),
        # Nothing that it names closes an answer but the tokenizer's own.
        ({"config": {"eos_token_id": 4}}, "<|end|>", {3}),
    ],
)
def test_which_token_ends_a_turn(folder: Path, tmp_path: Path, files: Any, end: str, stops: set[int]) -> None:
    template = Template.load(copy(folder, tmp_path, **files))
    assert template.tokenizer.convert_ids_to_tokens(template.end_id) == end
    assert template.stop_ids == stops


def test_a_given_end_of_turn_wins(folder: Path) -> None:
    assert Template.load(folder, end_of_turn="<|pad|>").end_id == 4
    with pytest.raises(InputError, match="tokens in the vocabulary"):
        Template.load(folder, end_of_turn="<|im_end|>")


def test_the_pad_token_never_becomes_the_end(tokenizer: Any) -> None:
    made = tokenizer(eos_token=None)
    assert made.pad_token_id == 4
    with pytest.raises(InputError, match="names no end-of-sequence token"):
        Template.of(made)
    no_pad = Template.of(tokenizer(pad_token=None))
    assert no_pad.pad_id == no_pad.end_id


def test_a_template_that_never_ends_a_turn_is_an_error(tokenizer: Any) -> None:
    """A stop token that gets no gradient: the model would never learn to stop."""
    endless = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    template = Template.of(tokenizer(chat_template=endless + "{% if add_generation_prompt %}<|assistant|>{% endif %}"))
    with pytest.raises(InputError, match="set end_of_turn"):
        template.respond(template.prompt([USER]), "fine")


def test_an_end_outside_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token 99999 is outside the vocabulary of 300"):
        Template.load(copy(folder, tmp_path, config={"eos_token_id": 99999}))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        Template.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer can be read"):
        Template.load(tmp_path)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no tokenizer can be read from nobody/nothing"):
        Template.load("nobody/nothing")


def test_saved_truncation_is_not_obeyed(folder: Path, tmp_path: Path) -> None:
    path = copy(folder, tmp_path)
    saved = json.loads((path / "tokenizer.json").read_text())
    saved["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (path / "tokenizer.json").write_text(json.dumps(saved))
    assert Template.load(path).document("hello there how are you") == Template.load(folder).document(
        "hello there how are you"
    )


@pytest.fixture(scope="module")
def shared(folder: Path) -> Template:
    return Template.load(folder)


words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=40)


@given(st.lists(words, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1), words)
def test_prompt_and_answer_are_the_template_s_own_rendering(shared: Template, turns: list[str], answer: str) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    prompt = shared.prompt(messages)
    response = shared.respond(prompt, answer)
    full = shared.tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": answer}], return_dict=False
    )
    assert [*prompt.token_ids, *response.token_ids] == full
    assert shared.decode(response.token_ids) == answer


@given(st.lists(words, min_size=2, max_size=8).filter(lambda turns: len(turns) % 2 == 0))
def test_trained_tokens_are_the_answers(shared: Template, turns: list[str]) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    (response,) = shared.conversation(messages).responses
    kept = response.trained or (True,) * len(response.token_ids)
    said = [t for t, trained in zip(response.token_ids, kept, strict=True) if trained]
    assert shared.decode(said, special=True) == "".join(f"{text}<|end|>" for text in turns[1::2])


def test_an_example_costs_under_a_millisecond(base: Template) -> None:
    started = time.process_time()
    for number in range(300):
        base.respond(base.prompt([{"role": "user", "content": f"how are you {number}"}]), "I am fine")
    assert (time.process_time() - started) / 300 < 1e-3
