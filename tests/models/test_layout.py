"""Where the flat axis lies on the rows, by hand; and that every layout gives plain `transformers`' numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.models.conftest import FALL_BACK, TREE, UNPACKED, group
from transformers import AutoModelForCausalLM

from tether.errors import InputError
from tether.models.layout import MaskStyle, View, lay_out
from tether.models.load import load_policy, load_scalar
from tether.models.role import Role
from tether.types import Group, Prompt, Response


def test_rows_by_hand():
    groups = [
        Group(Prompt((1, 2)), (Response((3, 4)), Response((5,)))),
        Group(Prompt((6,)), (Response((7, 8, 9), trained=(True, False, True)),)),
    ]
    laid = lay_out(groups, "rows", pad_id=0)
    assert laid.input_ids.tolist() == [[1, 2, 3, 4], [1, 2, 5, 0], [6, 7, 8, 9]]
    assert laid.attention is None
    assert laid.targets.tolist() == [3, 4, 5, 7, 9]
    assert laid.predict.tolist() == [1, 2, 5, 8, 10]
    assert laid.own.tolist() == [2, 3, 6, 9, 11]
    assert laid.last.tolist() == [3, 6, 11]
    assert laid.num_cells == 12


def test_tree_by_hand():
    groups = [
        Group(Prompt((1, 2)), (Response((3, 4)), Response((5, 6), trained=(False, True)))),
        Group(Prompt((7,)), (Response((8,)), Response(()))),
    ]
    laid = lay_out(groups, "tree", pad_id=0)
    assert laid.input_ids.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]
    assert laid.position_ids.tolist() == [[0, 1, 2, 3, 2, 3], [0, 1, 0, 0, 0, 0]]
    assert laid.targets.tolist() == [3, 4, 6, 8]
    assert laid.predict.tolist() == [1, 2, 4, 6]
    assert laid.own.tolist() == [2, 3, 5, 7]
    assert laid.last.tolist() == [3, 5, 7, 6]
    assert laid.attention[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert laid.attention[1, 0].any(-1).all(), "a pad that sees nothing makes NaN"


def test_varlen_by_hand():
    groups = [
        Group(Prompt((1, 2)), (Response((3, 4)), Response((5,)))),
        Group(Prompt((6,)), (Response((7, 8, 9), trained=(True, False, True)),)),
    ]
    laid = lay_out(groups, "varlen")
    assert laid.input_ids.tolist() == [[1, 2, 3, 4, 1, 2, 5, 6, 7, 8, 9]]
    assert laid.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]]
    assert laid.bounds.tolist() == [0, 4, 7, 11]
    assert laid.longest == 4
    assert laid.targets.tolist() == [3, 4, 5, 7, 9]
    assert laid.predict.tolist() == [1, 2, 5, 7, 9]
    assert laid.own.tolist() == [2, 3, 6, 8, 10]
    assert laid.last.tolist() == [3, 6, 10]


def test_window_counts_positions_not_cells():
    style = MaskStyle((View("full"), View("near", window=2)), torch.float32)
    laid = lay_out([Group(Prompt((1, 2)), (Response((3,)), Response((4,))))], "tree", style)
    assert set(laid.attention) == {"full", "near"}
    near = laid.attention["near"][0, 0]
    assert (near == 0).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]]
    assert near[3, 2] == torch.finfo(torch.float32).min


def test_a_first_token_needs_a_token_before_it():
    for kind in ("rows", "tree", "varlen"):
        with pytest.raises(InputError, match="a prompt has no tokens"):
            lay_out([Group(Prompt(()), (Response((1, 2)), Response((3,))))], kind)
    laid = lay_out([Group(Prompt(()), (Response((1, 2), trained=(False, True)),))], "rows")
    assert laid.predict.tolist() == [0]


def plain(model, groups: list[Group], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies from `transformers` alone, one sequence at a time."""
    logprobs, entropies = [], []
    for one in groups:
        for response in one.responses:
            ids = torch.tensor([one.prompt.token_ids + response.token_ids])
            logits = model(input_ids=ids).logits[0, len(one.prompt.token_ids) - 1 : -1] / temperature
            logp = logits.log_softmax(-1)
            logprobs.append(logp.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0])
            entropies.append(-(logp.exp() * logp).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def gradient(loss: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["rows", "tree", "varlen"])
@pytest.mark.parametrize("name", TREE + FALL_BACK)
def test_layouts_equal_plain_transformers(name, kind, folder, groups):
    path = folder(name)
    if name in {"rows": [], "tree": FALL_BACK, "varlen": UNPACKED}[kind]:
        with pytest.raises(InputError, match=f"layout '{kind}' cannot be used"):
            load_policy(path, device="cpu", layout=kind)
        return
    role = load_policy(path, device="cpu", layout=kind, value_head=True)
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    logprobs, entropies = plain(model, groups, 0.7)
    weights = torch.linspace(-1, 1, len(logprobs))  # every token its own weight, so no two errors cancel
    expected = gradient((weights * logprobs).sum() + (weights.flip(0) * entropies).sum(), model)

    out = role(role.lay_out(groups), ("logprobs", "entropy"), 0.7)
    found = gradient((weights * out.logprobs).sum() + (weights.flip(0) * out.entropy).sum(), role.hf)

    torch.testing.assert_close(out.logprobs, logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.entropy, entropies, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", TREE)
def test_scores_and_values_are_the_same_in_tree_rows(name, folder, groups):
    rows = load_scalar(folder(name), device="cpu", layout="rows", kind="value", seed=3)
    tree = load_scalar(folder(name), device="cpu", layout="auto", kind="value", seed=3)
    assert tree.layout == "tree", tree.layout_reason
    found = []
    for role in (rows, tree):
        out = role(role.lay_out(groups), ("values", "scores"))
        loss = (out.values * torch.linspace(-1, 1, len(out.values))).sum() + out.scores.pow(2).sum()
        found.append((out.values.detach(), out.scores.detach(), gradient(loss, role)))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5 * max(1.0, float(mine.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("layout", ["rows", "tree", "varlen"])
def test_a_step_is_scored_where_it_ends(layout, folder):
    """At a marked token a response scores what it would score if it stopped there."""
    role = load_scalar(folder("llama"), device="cpu", layout=layout, seed=3)
    whole, ends = group(5, 6, 4), ((1, 5), (0, 2))
    marked = [
        dataclasses.replace(r, trained=tuple(i in e for i in range(len(r.token_ids))))
        for r, e in zip(whole.responses, ends, strict=True)
    ]
    steps = role(role.lay_out([dataclasses.replace(whole, responses=tuple(marked))]), ("steps",)).steps
    cut = [Response(r.token_ids[: i + 1]) for r, e in zip(whole.responses, ends, strict=True) for i in e]
    scores = role(role.lay_out([dataclasses.replace(whole, responses=tuple(cut))]), ("scores",)).scores
    torch.testing.assert_close(steps, scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FALL_BACK)
def test_falls_back_and_says_why(name, folder):
    role = load_policy(folder(name), device="cpu")
    assert role.layout == "rows"
    assert type(role.hf).__name__ in role.layout_reason


@pytest.mark.parametrize("layout", ["rows", "tree", "varlen"])
def test_pad_and_neighbours_change_nothing(layout, folder, groups):
    """`pad == eos` included: 2 is the end of turn, and ends a response here."""
    groups[0] = dataclasses.replace(groups[0], responses=(*groups[0].responses, Response((5, 2))))
    role = load_scalar(folder("llama"), device="cpu", layout=layout)

    def scores(batch: list[Group], pad: int) -> torch.Tensor:
        role.pad_id = pad
        return role(role.lay_out(batch), ("scores",)).scores

    together = scores(groups, 0)
    for pad in (2, 50):
        assert torch.equal(scores(groups, pad), together)
    alone = torch.cat([scores([one], 2) for one in groups])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    turned = scores(groups[::-1], 2).split([len(one.responses) for one in groups[::-1]])
    torch.testing.assert_close(torch.cat(turned[::-1]), together, atol=1e-5, rtol=1e-5)


def test_a_pad_that_is_also_a_token_still_learns(folder):
    """The embedding of `pad_token_id` gets its gradient where the token is real."""
    role = load_scalar(folder("llama"), device="cpu")
    role(role.lay_out([Group(Prompt((0, 5)), (Response((6,)),))]), ("scores",)).scores.sum().backward()
    assert role.hf.get_input_embeddings().weight.grad[0].abs().sum() > 0


def test_untrained_tokens_are_read_but_not_predicted(folder):
    role = load_policy(folder("llama"), device="cpu", value_head=True)
    whole = group(4, 6, 3)
    trained = (False, True, True, False, False, True)
    part = dataclasses.replace(
        whole, responses=(dataclasses.replace(whole.responses[0], trained=trained), whole.responses[1])
    )
    full = role(role.lay_out([whole]), ("logprobs", "values", "scores"))
    some = role(role.lay_out([part]), ("logprobs", "values", "scores"))
    keep = torch.tensor([*trained, True, True, True])
    torch.testing.assert_close(some.logprobs, full.logprobs[keep])
    torch.testing.assert_close(some.values, full.values[keep])
    torch.testing.assert_close(some.scores, full.scores)


def test_attention_reaches_back_in_the_trial_models(folder):
    """The models above would not catch a wrong mask if a far token made no difference."""
    role: Role = load_policy(folder("llama"), device="cpu")
    one = group(6, 4)
    other = dataclasses.replace(one, prompt=Prompt((90, *one.prompt.token_ids[1:])))
    before, after = (role(role.lay_out([g])).logprobs for g in (one, other))
    assert (before - after).abs().min() > 1e-3
