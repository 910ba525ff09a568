"""What is saved loads in plain `transformers` with the same numbers, or nothing is saved."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.conftest import group
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from tether.errors import InputError
from tether.models import save
from tether.models.load import load_policy, load_scalar
from tether.models.save import save_role


def shake(role: torch.nn.Module) -> None:
    """New weights everywhere, as after training."""
    with torch.no_grad():
        for parameter in role.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma2", "gpt2", "granite", "mamba"])
def test_policy_in_plain_transformers(name, folder, tmp_path):
    role = load_policy(folder(name), value_head=True)
    shake(role)
    save_role(role, tmp_path / "policy")
    one = group(6, 5)
    out = role(role.lay_out([one]), ("logprobs", "values"))

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    ids = torch.tensor([one.prompt.token_ids + one.responses[0].token_ids])
    logp = model(ids).logits[0, 5:-1].log_softmax(-1)
    expected = logp.gather(1, ids[0, 6:, None])[:, 0]
    torch.testing.assert_close(out.logprobs, expected, atol=1e-5, rtol=1e-5)

    again = load_policy(str(tmp_path / "policy"), value_head=True)
    torch.testing.assert_close(again(again.lay_out([one]), ("values",)).values, out.values)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3", "gpt2", "mistral", "phi3", "gpt-neox", "opt"])
def test_reward_in_plain_transformers(name, folder, tmp_path):
    role = load_scalar(folder(name))
    shake(role)
    save_role(role, tmp_path / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    pad = model.config.pad_token_id
    ends = model.config.eos_token_id
    assert pad is not None
    assert pad not in (ends if isinstance(ends, list) else [ends])
    groups = [group(6, 5), group(3, 2)]
    expected = role(role.lay_out(groups), ("scores",)).scores
    rows = [list(g.prompt.token_ids + g.responses[0].token_ids) for g in groups]
    batch = torch.tensor([row + [pad] * (11 - len(row)) for row in rows])
    scores = model(batch, attention_mask=(batch != pad).long()).logits[:, 0]
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_several_heads_come_back(name, folder, tmp_path):
    role = load_scalar(folder(name), num_heads=3, seed=1)
    shake(role)
    save_role(role, tmp_path / "reward")
    one = group(6, 5)
    expected = role(role.lay_out([one, group(3, 2)]), ("scores",)).scores
    assert expected.shape == (2, 3)
    assert expected[0].std() > 0.01
    again = load_scalar(str(tmp_path / "reward"), require_head=True)
    torch.testing.assert_close(again(again.lay_out([one, group(3, 2)]), ("scores",)).scores, expected)
    if name != "mamba":  # which has no classifier of its own
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
        scores = model(torch.tensor([one.prompt.token_ids + one.responses[0].token_ids])).logits
        torch.testing.assert_close(scores, expected[:1], atol=1e-5, rtol=1e-5)
    value = load_scalar(str(tmp_path / "reward"), kind="value")
    found = value(value.lay_out([one]), ("values", "scores"))
    torch.testing.assert_close(found.scores, expected[:1].mean(1), atol=1e-5, rtol=1e-5)
    assert found.values.shape == (5,)
    save_role(value, tmp_path / "value")
    with pytest.raises(InputError, match="has 3 reward heads, where 2 are asked for"):
        load_scalar(str(tmp_path / "reward"), num_heads=2)


@pytest.mark.parametrize("name", ["cohere2", "mamba"])
def test_reward_of_an_architecture_without_a_classifier(name, folder, tmp_path):
    role = load_scalar(folder(name))
    assert role.scalar_head is not None
    shake(role)
    save_role(role, tmp_path / "reward")
    again = load_scalar(str(tmp_path / "reward"), require_head=True)
    groups = [group(6, 5), group(3, 2)]
    found, expected = (r(r.lay_out(groups), ("scores",)).scores for r in (again, role))
    torch.testing.assert_close(found, expected)


def test_pad_that_is_the_end_of_turn_gives_way(folder, tmp_path):
    vocab = {"<s>": 0, "<unk>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 97)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="<unk>")),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
    )
    role = load_scalar(folder("llama"))
    role.hf.config.pad_token_id = 2
    save_role(role, tmp_path / "reward", tokenizer)
    saved = AutoTokenizer.from_pretrained(tmp_path / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    assert saved.pad_token_id == model.config.pad_token_id == 0
    assert saved.get_vocab() == tokenizer.get_vocab()
    assert tokenizer.pad_token_id == role.hf.config.pad_token_id == 2, "the caller's own are left alone"
    rows = {"input_ids": [[5, 6, 7, 2], [5, 2]]}
    scores = model(**saved.pad(rows, return_tensors="pt")).logits[:, 0]
    alone = torch.cat([model(torch.tensor([row])).logits[0] for row in rows["input_ids"]])
    torch.testing.assert_close(scores, alone)


def test_saving_replaces_and_leaves_nothing_else(folder, tmp_path):
    first, second = load_policy(folder("llama")), load_policy(folder("llama"))
    shake(second)
    save_role(first, tmp_path / "policy")
    (tmp_path / "policy" / "stale.txt").write_text("")
    save_role(second, tmp_path / "policy")
    assert sorted(os.listdir(tmp_path)) == ["policy"]
    assert not (tmp_path / "policy" / "stale.txt").exists()
    again = load_policy(str(tmp_path / "policy"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), second.parameters(), strict=True))
    assert "tmp" not in json.dumps(json.loads((tmp_path / "policy" / "config.json").read_text()))


def test_a_head_that_comes_back_different_is_not_saved(folder, tmp_path, monkeypatch):
    role = load_scalar(folder("llama"))
    write = save._write

    def spoil(role, folder: Path, tokenizer) -> None:
        write(role, folder, tokenizer)
        tensors = load_file(folder / "model.safetensors")
        tensors["score.weight"] *= 1.1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(save, "_write", spoil)
    with pytest.raises(RuntimeError, match="other scores"):
        save_role(role, tmp_path / "reward")
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_role(load_policy(folder("llama")), tmp_path / "file" / "policy")
