"""Micro-batches hold every group once, keep the budget, and decide nothing but speed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.conftest import group

from tether.models.layout import height, lay_out, width
from tether.models.load import load_policy
from tether.models.plan import infer, micro_batches, out_of_memory
from tether.models.role import Role
from tether.types import Group, Outputs

shapes = st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=1, max_size=4)), max_size=12)


@given(shapes, st.integers(1, 300), st.sampled_from(["rows", "tree", "varlen"]))
def test_plan_holds_every_group_once_within_budget(shape, budget, layout):
    groups = [group(prompt, *responses) for prompt, responses in shape]
    plan = micro_batches(groups, budget, layout)
    assert sorted(i for batch in plan for i in batch) == list(range(len(groups)))
    assert plan == micro_batches(groups, budget, layout)
    for batch in plan:
        members = [groups[i] for i in batch]
        widths = [width(g, layout) for g in members]
        packed = layout == "varlen"
        cells = sum(widths) if packed else sum(height(g, layout) for g in members) * max(widths)
        assert len(members) == 1 or cells <= budget
        assert lay_out(members, layout).num_cells == cells


def test_groups_of_like_length_share_rows():
    groups = [group(2, 2), group(20, 20), group(2, 3), group(21, 18)]
    assert micro_batches(groups, 80, "rows") == [[1, 3], [2, 0]]


@pytest.fixture(scope="module")
def role(folder) -> Role:
    return load_policy(folder("llama"), device="cpu", value_head=True)


@given(shapes.filter(bool), st.integers(1, 400))
def test_outputs_do_not_depend_on_the_plan(role, shape, budget):
    groups = [group(prompt, *responses, seed=i) for i, (prompt, responses) in enumerate(shape)]
    want = ("logprobs", "entropy", "values", "scores")
    one_by_one = [infer(role, [g], want) for g in groups]
    together = infer(role, groups, want, token_budget=budget)
    for name in want:
        expected = torch.cat([getattr(out, name) for out in one_by_one])
        torch.testing.assert_close(getattr(together, name), expected, atol=1e-5, rtol=1e-5)


def test_only_what_is_wanted(role):
    out = infer(role, [group(3, 4)], ("entropy",))
    assert out.entropy is not None
    assert (out.logprobs, out.values, out.scores) == (None, None, None)
    assert not out.entropy.requires_grad
    assert infer(role, [], ("logprobs",)) == Outputs()


class Cramped(Role):
    """A role on a device with room for so many cells."""

    room = 60

    def forward(self, laid, want=("logprobs",), temperature=1.0):
        if laid.num_cells > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(laid, want, temperature)


def test_out_of_memory_halves_the_budget(role):
    groups = [group(4, length, seed=length) for length in range(1, 20)]
    cramped = Cramped(role.hf, "policy")
    found = infer(cramped, groups, ("logprobs",), token_budget=10_000).logprobs
    assert torch.allclose(found, infer(role, groups, ("logprobs",)).logprobs, atol=1e-5)


def test_one_group_that_has_no_room_is_an_error(role):
    cramped = Cramped(role.hf, "policy")
    cramped.room = 3
    with pytest.raises(torch.OutOfMemoryError):
        infer(cramped, [group(4, 4), group(5, 5)], ("logprobs",))
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_other_errors_pass(role):
    groups: list[Group] = [group(4, 4)]
    with pytest.raises(IndexError):
        infer(role, [Group(type(groups[0].prompt)((1000,)), groups[0].responses)], ("logprobs",))
