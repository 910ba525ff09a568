"""The loop's books: the data cursor, the schedule, the optimiser's groups, checkpoints and random states."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tether.config import OptimConfig
from tether.errors import InputError
from tether.train.checkpoint import checkpoints, load_checkpoint, random_state, save_checkpoint, set_random_state
from tether.train.cursor import Cursor
from tether.train.optim import build_optimizer, learning_rate
from tether.types import Group, Prompt, Response, RolloutBatch, Totals


def groups_of(count: int) -> list[Group]:
    return [Group(Prompt((i,))) for i in range(count)]


@given(st.integers(1, 20), st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(0, 5))
def test_cursor_gives_every_example_once_a_pass_and_resumes_anywhere(count, portions, seed):
    cursor = Cursor(groups_of(count), seed)
    drawn = [g for portion in portions for g in cursor.draw(portion)]
    for first in range(0, len(drawn) - count + 1, count):
        assert {g.prompt.token_ids for g in drawn[first : first + count]} == {(i,) for i in range(count)}
    place = portions[0]
    assert Cursor(groups_of(count), seed, place).draw(len(drawn) - place) == drawn[place:]


def test_cursor_orders_differ_between_passes_and_seeds():
    passes = Cursor(groups_of(30), 0).draw(60)
    assert passes[:30] != passes[30:]
    assert Cursor(groups_of(30), 1).draw(30) != passes[:30]


def test_learning_rate_by_hand():
    flat = OptimConfig(lr=1.0, warmup=0.2)  # 10 steps: two of warm-up at 1/3 and 2/3
    assert [round(learning_rate(flat, t, 10), 4) for t in (0, 1, 2, 9)] == [0.3333, 0.6667, 1.0, 1.0]
    line = OptimConfig(lr=2.0, schedule="linear", min_lr_ratio=0.5)
    assert [learning_rate(line, t, 4) for t in range(4)] == [2.0, 1.75, 1.5, 1.25]
    wave = OptimConfig(lr=1.0, schedule="cosine")
    assert learning_rate(wave, 5, 10) == pytest.approx(0.5)


def test_decay_is_for_matrices_only():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2), nn.LayerNorm(2))
    decayed, free = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert sum(p.numel() for p in free["params"]) == 15 + 2 + 2 + 2


def test_random_states_come_back():
    saved = random_state()
    first = (random.random(), np.random.rand(), torch.rand(1).item())
    set_random_state(saved)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def test_checkpoints_keep_the_newest_and_hold_only_data(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.full((2,), float(step)), "random": random_state()}, 2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000002.pt", "step-00000003.pt"]
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 3
    assert state["w"].tolist() == [3.0, 3.0]
    (tmp_path / "step-00000004.pt").write_bytes(b"half")
    with pytest.raises(InputError, match=r"step-00000004[.]pt is damaged"):
        load_checkpoint(tmp_path)


def test_a_batch_is_taken_apart_by_group():
    groups = [
        Group(Prompt((1,)), (Response((5, 6)), Response((7,)))),
        Group(Prompt((2,)), (Response((8, 9, 10), trained=(False, True, True)),)),
    ]
    batch = RolloutBatch.of(groups, torch.empty(0), advantages=torch.arange(5.0), rewards=torch.tensor([1.0, 2.0, 3.0]))
    assert batch.lengths.tolist() == [2, 1, 2]
    assert batch.group_of.tolist() == [0, 0, 1]
    assert batch.total == Totals(5, 3, 2)
    part = batch.take([1, 0])
    assert part.lengths.tolist() == [2, 2, 1]
    assert part.advantages.tolist() == [3.0, 4.0, 0.0, 1.0, 2.0]
    assert part.rewards.tolist() == [3.0, 1.0, 2.0]
    assert part.group_of.tolist() == [0, 1, 1]
    assert part.total == batch.total
