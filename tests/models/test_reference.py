"""The reference's log-probs of the data: computed once, by content, and never trusted when damaged."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.models.conftest import group

from tether.models.load import load_policy
from tether.models.plan import infer
from tether.models.reference import ReferenceTable, cache_folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    return tmp_path / "reference"


def counted(role):
    """The role, and a list that grows with each of its forwards."""
    forwards: list[int] = []
    role.register_forward_pre_hook(lambda *_: forwards.append(1))
    return role, forwards


def test_a_second_run_does_no_forward(folder, cache):
    data = [group(5, 3, 4, seed=1), group(2, 6, seed=2), group(7, 1, seed=3)]
    role, forwards = counted(load_policy(folder("llama"), device="cpu"))
    first = ReferenceTable(role, 0.7)
    assert first.fill(data)
    expected = infer(role, data, ("logprobs",), temperature=0.7).logprobs
    assert torch.equal(first.of(data), expected)

    again, forwards = counted(load_policy(folder("llama"), device="cpu"))
    second = ReferenceTable(again, 0.7)
    assert not second.fill(data)
    assert not second.fill(data[1:])
    assert torch.equal(second.of(data[::-1]), torch.cat(expected.split([7, 6, 1])[::-1]))
    assert forwards == []
    assert len(list(cache.iterdir())) == 1


def test_what_it_depends_on_has_another_name(folder, cache):
    data = [group(5, 3, seed=1)]
    role = load_policy(folder("llama"), device="cpu")
    ReferenceTable(role).fill(data)
    moved = load_policy(folder("llama"), device="cpu")
    next(iter(moved.parameters())).data.view(-1)[0] += 1e-3
    masked = [dataclasses.replace(data[0], responses=(dataclasses.replace(data[0].responses[0], trained=(True,) * 3),))]
    assert ReferenceTable(moved).fill(data)
    assert ReferenceTable(role, 0.5).fill(data)
    assert ReferenceTable(role).fill(masked)
    assert not ReferenceTable(role).fill(data)
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"not a tensor", None])
def test_a_damaged_file_is_computed_anew(folder, cache, damage):
    data = [group(5, 3, seed=1)]
    role = load_policy(folder("llama"), device="cpu")
    ReferenceTable(role).fill(data)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] if damage is None else damage)
    assert ReferenceTable(role).fill(data)
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_stops_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "taken"))
    table = ReferenceTable(load_policy(folder("llama"), device="cpu"))
    assert table.fill([group(5, 3, seed=1)])
    assert len(table.of([group(5, 3, seed=1)])) == 3


def test_where_it_is_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("TETHER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tether"
