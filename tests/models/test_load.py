"""What loads, with which numbers, and the sentence for what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.conftest import VOCAB, group
from transformers import LlamaForSequenceClassification

from tether.errors import InputError
from tether.models import load
from tether.models.load import check_tokenizer, load_policy, load_scalar, resolve_model, value_from
from tether.models.reference import frozen
from tether.models.save import save_role


@pytest.fixture
def llama(folder, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(folder("llama"), tmp_path / "llama"))


def edit(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def test_loading_draws_from_no_global_generator(folder, capfd):
    before = torch.get_rng_state()
    load_policy(folder("llama"), value_head=True)
    load_scalar(folder("qwen3"))
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_new_head_is_small_and_follows_the_seed(folder):
    heads = [load_scalar(folder("llama"), seed=seed).scalar.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0.5 < heads[0].std() * 33**0.5 < 1.5
    assert torch.equal(load_policy(folder("llama"), value_head=True).scalar.weight, heads[0])


def test_dropout_stays_off_unless_asked(folder, tmp_path):
    path = Path(shutil.copytree(folder("gpt2"), tmp_path / "gpt2"))
    edit(path, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    for dropout, same in ((False, True), (True, False)):
        role = load_policy(str(path), dropout=dropout).train()
        laid = role.lay_out([group(5, 6)])
        assert torch.equal(role(laid).logprobs, role(laid).logprobs) is same
        role.eval()
        assert torch.equal(role(laid).logprobs, role(laid).logprobs)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_gradient_checkpointing_changes_no_gradient(name, folder, tmp_path):
    path = Path(shutil.copytree(folder(name), tmp_path / name))
    if name == "opt":
        edit(path, dropout=0.5)  # OPT drops out in the layer's own forward
    grads = []
    for checkpointing in (False, True):
        role = load_policy(str(path), gradient_checkpointing=checkpointing).train()
        role(role.lay_out([group(5, 6, 4)])).logprobs.sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in role.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads)
    recomputed = [m for m in role.modules() if getattr(m, "gradient_checkpointing", False) and m.training]
    assert len(recomputed) == 2


def test_reference_shares_nothing(folder):
    role = load_policy(folder("llama"))
    reference = frozen(role)
    laid = role.lay_out([group(5, 6, 4)])
    before = reference(laid).logprobs
    assert torch.equal(before, role(laid).logprobs)
    assert not any(p.requires_grad for p in reference.parameters())
    assert all(p.requires_grad for p in role.parameters())
    with torch.no_grad():
        for parameter in role.parameters():
            parameter.mul_(1.5)
    assert torch.equal(reference(laid).logprobs, before)
    assert not torch.allclose(role(laid).logprobs, before, atol=1e-3)


def test_value_starts_as_the_reward_model(folder, tmp_path):
    reward = load_scalar(folder("llama"), seed=5)
    save_role(reward, tmp_path / "reward")
    value = value_from(str(tmp_path / "reward"))
    assert value.kind == "value"
    groups = [group(5, 6, 4)]
    assert torch.equal(
        value(value.lay_out(groups), ("scores",)).scores, reward(reward.lay_out(groups), ("scores",)).scores
    )


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere2", "phi"])
def test_decoding_gives_the_models_own_logits(name, folder):
    from transformers import AutoModelForCausalLM, DynamicCache

    role = load_policy(folder(name))
    model = AutoModelForCausalLM.from_pretrained(folder(name)).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [0, 0, 3, 4, 5, 6, 7]])
    seen = torch.ones(2, 7, dtype=torch.bool)
    seen[1, :2] = False
    positions = (seen.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=role.hf.config)
    with torch.no_grad():
        role.decode(ids[:, :6], positions[:, :6], seen[:, :6], cache)
        logits = role.decode(ids[:, 6:], positions[:, 6:], seen, cache)
        for row, start in ((0, 0), (1, 2)):
            torch.testing.assert_close(
                logits[row], model(ids[row : row + 1, start:]).logits[0, -1], atol=1e-5, rtol=1e-5
            )


def test_bfloat16_keeps_its_layout_and_an_exact_head(folder, tmp_path):
    role = load_scalar(folder("llama"), dtype="bfloat16", layout="tree")
    assert role.hf.dtype == torch.bfloat16
    assert role.scalar.weight.dtype == torch.float32
    save_role(role, tmp_path / "reward")
    again = load_scalar(str(tmp_path / "reward"), dtype="bfloat16", require_head=True)
    assert torch.equal(again.scalar.weight, role.scalar.weight)


def test_context_length(folder):
    assert load_policy(folder("llama")).max_tokens == 64
    assert load_policy(folder("gpt2")).max_tokens == 64
    assert load_policy(folder("mamba")).max_tokens > 10**6


def test_names(folder, tmp_path, monkeypatch):
    assert resolve_model(folder("llama")) == folder("llama")
    assert resolve_model("owner/name-1.5B") == "owner/name-1.5B"
    monkeypatch.setattr(load, "BASE", Path(folder("llama")))
    assert resolve_model("base") == folder("llama")
    monkeypatch.setattr(load, "BASE", tmp_path)
    with pytest.raises(InputError, match="ships no base model"):
        resolve_model("base")
    for name in ("runs/no/such/folder", "./model", str(tmp_path / "none")):
        with pytest.raises(InputError, match="no such folder"):
            resolve_model(name)


def damage(folder: Path, what: str) -> None:
    weights = folder / "model.safetensors"
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "config is not JSON":
        (folder / "config.json").write_text("{")
    elif what == "unknown architecture":
        edit(folder, model_type="no-such-model")
    elif what == "no weights":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "not safetensors":
        weights.write_bytes(b"<html>not found</html>")
    elif what == "other shapes":
        edit(folder, hidden_size=64, head_dim=8)
    elif what == "parameter missing":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif what == "encoder":
        edit(folder, model_type="vit", architectures=["ViTModel"])
    elif what == "classifier":
        edit(folder, architectures=["LlamaForSequenceClassification"])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no config", "has no config.json"),
        ("config is not JSON", "configuration cannot be read"),
        ("unknown architecture", "configuration cannot be read"),
        ("no weights", "no .*safetensors weights"),
        ("cut short", "cut short"),
        ("not safetensors", "weights cannot be read"),
        ("other shapes", "weights cannot be read"),
        ("parameter missing", "not in its weights, such as model.layers.1.mlp.up_proj.weight"),
        ("encoder", "not a causal language model"),
        ("classifier", "not a causal language model"),
    ],
)
def test_bad_folders_have_one_clear_sentence(what, message, llama):
    damage(llama, what)
    with pytest.raises(InputError, match=message) as error:
        load_policy(str(llama))
    assert str(llama) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_reward_model_must_have_its_head(llama, tmp_path):
    with pytest.raises(InputError, match="no reward head"):
        load_scalar(str(llama), require_head=True)
    save_role(load_scalar(str(llama)), tmp_path / "reward")
    file = tmp_path / "reward" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != "score.weight"}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="the reward head was not saved"):
        load_scalar(str(tmp_path / "reward"))


def test_a_classifier_of_several_labels_is_no_reward_model(llama, tmp_path):
    LlamaForSequenceClassification.from_pretrained(llama, num_labels=3).save_pretrained(tmp_path / "three")
    with pytest.raises(InputError, match="3 labels"):
        load_scalar(str(tmp_path / "three"))


def test_wrong_requests(folder):
    role = load_scalar(folder("llama"))
    with pytest.raises(InputError, match="no vocabulary head"):
        role(role.lay_out([group(2, 2)]), ("logprobs",))
    policy = load_policy(folder("llama"))
    with pytest.raises(InputError, match="no value head"):
        policy(policy.lay_out([group(2, 2)]), ("values",))
    with pytest.raises(InputError, match="device 'nowhere'"):
        load_policy(folder("llama"), device="nowhere")
    check_tokenizer(policy, VOCAB)
    with pytest.raises(InputError, match="98 tokens but LlamaForCausalLM embeds only 97"):
        check_tokenizer(policy, VOCAB + 1)


def test_unknown_logits_are_refused(folder, monkeypatch):
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def shifted(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 1.01
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", shifted)
    with pytest.raises(InputError, match="LlamaForCausalLM: its logits are not"):
        load_policy(folder("llama"))


def test_states_that_depend_on_the_batch_are_refused(folder, monkeypatch):
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def leaking(self, input_ids=None, **kwargs):
        out = forward(self, input_ids=input_ids, **kwargs)
        out.last_hidden_state = out.last_hidden_state * len(input_ids)
        return out

    monkeypatch.setattr(LlamaModel, "forward", leaking)
    with pytest.raises(InputError, match="depend on the rest of the batch"):
        load_policy(folder("llama"))
