"""Steps by hand, and a process reward model's scores against a forward for every step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train.conftest import Tiny, examples

from tether.data.steps import mark_steps, step_ends
from tether.data.template import Template
from tether.errors import InputError
from tether.models.load import load_scalar
from tether.rewards.process import ProcessScorer
from tether.types import Group, Prompt, Response

PIECES = ["a", "b ", "\n", "\n\n", ".\n", "\nc", "", "  ", "ab\nc\n"]


def decode(ids):
    return "".join(PIECES[i] for i in ids)


def ends(*pieces: str, delimiter: str = "\n") -> tuple[int, ...]:
    return step_ends([PIECES.index(piece) for piece in pieces], decode, delimiter)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (("a", "\n", "b ", "a"), (1, 3)),
        (("a", ".\n", "b ", ".\n"), (1, 3)),
        (("\n", "a", "\n\n", "\n", "a", ""), (2, 4)),  # empty lines are no steps; nor is an end of turn
        (("a", "\nc", "\n"), (1, 2)),  # a token with the next step's first letter
        (("a", "\nc", ""), (1,)),  # that letter is all there is
        (("a", "b ", "  "), (1,)),
        (("ab\nc\n",), (0,)),
        (("", "  ", "\n"), ()),
        ((), ()),
    ],
)
def test_ends_by_hand(pieces: tuple[str, ...], expected: tuple[int, ...]):
    assert ends(*pieces) == expected


def test_another_delimiter():
    assert ends("a", "b ", "a", "b ", "a", delimiter="b ") == (1, 3, 4)
    assert ends("a", "\n", "\n", "a", delimiter="\n\n") == (2, 3)


@given(st.lists(st.integers(0, 7), max_size=12))  # the last piece holds two delimiters: one token is one end
def test_as_many_steps_as_lines_with_text(ids: list[int]):
    found = step_ends(ids, decode)
    lines = [line for line in decode(ids).split("\n") if line.strip()]
    assert list(found) == sorted(set(found))
    if PIECES.index("\nc") not in ids:
        assert len(found) == len(lines)
        starts = [0, *(end + 1 for end in found)]
        assert [decode(ids[a : b + 1]).strip() for a, b in zip(starts, found, strict=False)] == [
            line.strip() for line in lines
        ]


@pytest.fixture(scope="module")
def chains(tiny: Tiny) -> list[Group]:
    """Responses of 1 to 4 lines, one that is blank, one that is cut."""
    template = Template.load(tiny())
    texts = [["hello\nthe cat sat\nthank you", "I am\n\nfine\n"], ["how", "\n"], ["name\nmat\nthere\nyou"]]
    made = []
    for i, (own, one) in enumerate(zip(texts, examples(template, 3, 1), strict=True)):
        made.append(Group(one.prompt, tuple(template.respond(one.prompt, text, ended=i < 2) for text in own)))
    return made


@pytest.fixture(scope="module")
def scorer(tiny: Tiny) -> ProcessScorer:
    return ProcessScorer(load_scalar(tiny(), seed=3, device="cpu"), Template.load(tiny()).decode, token_budget=64)


def test_every_step_is_scored_as_if_the_response_ended_there(chains: list[Group], scorer: ProcessScorer):
    steps = scorer.steps(chains)
    assert steps.lengths.tolist() == [3, 2, 1, 0, 4]
    expected = []
    responses = [(g.prompt, r) for g in chains for r in g.responses]
    for (prompt, response), own in zip(responses, steps.ends, strict=True):
        for end in own:
            ids = torch.tensor([prompt.token_ids + response.token_ids[: end + 1]])
            expected.append(scorer.role.hf(input_ids=ids).logits.item())
    assert max(expected) - min(expected) > 0.1
    torch.testing.assert_close(steps.right, torch.tensor(expected).sigmoid(), atol=1e-5, rtol=0)
    assert not steps.right.requires_grad


@pytest.mark.parametrize("how", ["min", "product", "last"])
def test_steps_become_one_score(chains: list[Group], scorer: ProcessScorer, how):
    by_hand = {"min": min, "product": lambda p: torch.tensor(p).prod().item(), "last": lambda p: p[-1]}[how]
    steps = scorer.steps(chains)
    pieces = [p.tolist() for p in steps.right.split(steps.lengths.tolist())]
    found = dataclasses.replace(scorer, how=how)(chains)
    assert found.tolist() == pytest.approx([by_hand(p) if p else 0.0 for p in pieces])
    assert scorer.weakest_step(chains) == [p.index(min(p)) if p else None for p in pieces]


@pytest.mark.parametrize("how", ["min", "product", "last"])
def test_dense_rewards_stand_at_step_ends_and_sum_to_the_score(chains: list[Group], scorer: ProcessScorer, how):
    scorer = dataclasses.replace(scorer, how=how)
    rewards = scorer.token_rewards(chains)
    responses = [r for g in chains for r in g.responses]
    pieces = rewards.split([len(r.token_ids) for r in responses])
    torch.testing.assert_close(torch.stack([p.sum() for p in pieces]), scorer(chains))
    for piece, own in zip(pieces, scorer.steps(chains).ends, strict=True):
        assert set(piece.nonzero().flatten().tolist()) <= set(own)
    first = scorer.steps(chains).right[0]
    assert pieces[0][scorer.steps(chains).ends[0][0]].item() == pytest.approx(first.item())


def test_dense_rewards_on_a_partly_trained_response(chains: list[Group], scorer: ProcessScorer):
    """A step that ends on a token without a place is credited to the next that has one, or to the last."""
    whole = chains[2]
    own = scorer.steps([whole]).ends[0]
    length = len(whole.responses[0].token_ids)
    trained = tuple(i != own[0] and i < own[3] for i in range(length))
    part = dataclasses.replace(whole, responses=(dataclasses.replace(whole.responses[0], trained=trained),))
    full, some = scorer.token_rewards([whole]), scorer.token_rewards([part])
    assert len(some) == sum(trained)
    torch.testing.assert_close(some.sum(), full.sum())
    places = [i for i, counts in enumerate(trained) if counts]
    assert some[places.index(own[0] + 1)].item() == pytest.approx(full[own[0]].item())
    assert places[-1] == own[2]
    assert some[-1].item() == pytest.approx(full[own[2] :].sum().item())


def test_a_sampled_response_is_marked_without_another_reading():
    response = Response((0, 2, 0), "a\na", logprobs=(-1.0, -2.0, -3.0), policy_version=4)
    marked = mark_steps(response, decode)
    assert marked == dataclasses.replace(response, trained=(False, True, True))


def test_bad_settings_are_one_sentence(scorer: ProcessScorer, tiny: Tiny):
    with pytest.raises(InputError, match="the model has 2 heads; a step needs exactly 1"):
        dataclasses.replace(scorer, role=load_scalar(tiny(), num_heads=2, device="cpu"))
    with pytest.raises(InputError, match="'mean' is no way to join steps; valid: min, product, last"):
        dataclasses.replace(scorer, how="mean")
    with pytest.raises(InputError, match="delimiter of steps is empty"):
        dataclasses.replace(scorer, delimiter="")


def test_prompts_of_one_token(scorer: ProcessScorer):
    steps = scorer.steps([Group(Prompt((5,)), (Response((7,)), Response(())))])
    assert steps.lengths.tolist() == [1, 0]
