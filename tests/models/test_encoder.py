"""Encoders as reward models: the classifier's own scores, in any batch; refused where a causal model is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tests.models.conftest import VOCAB, group

from tether.errors import InputError
from tether.models.load import check_model, load_policy, load_scalar
from tether.models.save import save_role
from tether.types import Group, Response

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "pad_token_id": 0,
}
ENCODERS = {
    "bert": hf.BertConfig(**SMALL),
    "roberta": hf.RobertaConfig(**SMALL | {"pad_token_id": 1}),
    "modernbert": hf.ModernBertConfig(
        **SMALL, global_attn_every_n_layers=2, local_attention=6, classifier_pooling="cls"
    ),
    "deberta-v2": hf.DebertaV2Config(
        **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0, pooler_hidden_size=32
    ),
    "distilbert": hf.DistilBertConfig(
        vocab_size=VOCAB, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=64, pad_token_id=0
    ),
    "electra": hf.ElectraConfig(**SMALL, embedding_size=16),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def make(name: str) -> str:
        if name not in made:
            with torch.random.fork_rng():
                torch.manual_seed(3)
                model = hf.AutoModelForMaskedLM.from_config(ENCODERS[name])
            made[name] = str(tmp_path_factory.mktemp("encoders") / name)
            model.save_pretrained(made[name])
        return made[name]

    return make


GROUPS = [group(7, 5, 1, 9, seed=1), group(3, 12, seed=2), group(11, 2, 2, seed=3)]


@pytest.mark.parametrize("name", ENCODERS)
def test_scores_are_the_saved_classifiers_in_any_batch(name, encoder, tmp_path):
    role = load_scalar(encoder(name), device="cpu", seed=1)
    assert role.layout == "rows"
    assert "both ways" in role.layout_reason
    with torch.no_grad():
        for parameter in role.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    save_role(role, tmp_path / "reward")
    model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    alone = [model(torch.tensor([g.prompt.token_ids + r.token_ids])).logits.item() for g in GROUPS for r in g.responses]
    again = load_scalar(str(tmp_path / "reward"), device="cpu", require_head=True)
    for one in (role, again):
        scores = one(one.lay_out(GROUPS), ("scores",)).scores
        assert scores.shape == (6,)
        torch.testing.assert_close(scores, torch.tensor(alone), atol=1e-5, rtol=1e-4)
    assert max(alone) - min(alone) > 1e-3
    pads = [role.pad_id, 50]
    found = []
    for pad in pads:
        role.pad_id = pad
        found.append(role(role.lay_out(GROUPS), ("scores",)).scores)
    if name != "roberta":  # which counts positions by the pad's id
        torch.testing.assert_close(*found, atol=1e-6, rtol=0)


def test_a_response_is_read_both_ways(encoder):
    """The first tokens' states know the last one: a causal trunk's would not."""
    role = load_scalar(encoder("bert"), device="cpu")
    one = group(5, 6)
    other = Group(one.prompt, (Response((*one.responses[0].token_ids[:-1], 90)),))
    states = [role.trunk(torch.tensor([g.prompt.token_ids + g.responses[0].token_ids]))[0][0, 0] for g in (one, other)]
    assert (states[0] - states[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_new_head_follows_the_seed_and_no_global_generator(name, encoder):
    before = torch.get_rng_state()
    scores = [
        role(role.lay_out(GROUPS), ("scores",)).scores
        for role in (load_scalar(encoder(name), device="cpu", seed=seed) for seed in (0, 0, 1))
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])


def test_several_heads(encoder, tmp_path):
    role = load_scalar(encoder("bert"), device="cpu", num_heads=3)
    assert role.num_heads == 3
    save_role(role, tmp_path / "reward")
    again = load_scalar(str(tmp_path / "reward"), device="cpu", require_head=True)
    found = again(again.lay_out(GROUPS), ("scores",)).scores
    assert found.shape == (6, 3)
    torch.testing.assert_close(found, role(role.lay_out(GROUPS), ("scores",)).scores)


def test_gradients_reach_the_trunk_and_dropout_stays_off(encoder):
    role = load_scalar(encoder("bert"), device="cpu").train()
    laid = role.lay_out(GROUPS)
    assert torch.equal(role(laid, ("scores",)).scores, role(laid, ("scores",)).scores)
    role(laid, ("scores",)).scores.sum().backward()
    assert role.hf.get_input_embeddings().weight.grad.abs().sum() > 0
    dropping = load_scalar(encoder("bert"), device="cpu", dropout=True).train()
    assert not torch.equal(dropping(laid, ("scores",)).scores, dropping(laid, ("scores",)).scores)


def test_the_longest_text(encoder):
    assert load_scalar(encoder("bert"), device="cpu").max_tokens == 64
    role = load_scalar(encoder("roberta"), device="cpu")
    assert role.max_tokens == 62  # of 64 rows the first two are never used
    assert role(role.lay_out([group(30, 32)]), ("scores",)).scores.isfinite().all()


def test_refused_by_name(encoder, tmp_path):
    path = encoder("bert")
    with pytest.raises(InputError, match="BertForMaskedLM, not a causal language model"):
        load_policy(path)
    for look in (lambda: load_scalar(path, kind="value"), lambda: check_model(path, "value")):
        with pytest.raises(
            InputError, match="BertForMaskedLM, which reads both ways; a value model must be a causal one"
        ):
            look()
    check_model(path, "reward")
    with pytest.raises(InputError, match="no reward head"):
        load_scalar(path, require_head=True)
    for layout in ("tree", "varlen"):
        with pytest.raises(InputError, match=f"layout '{layout}' cannot be used with BertForSequenceClassification"):
            load_scalar(path, layout=layout)
    role = load_scalar(path, device="cpu")
    for want in ("values", "steps", "logprobs"):
        with pytest.raises(InputError, match=f"gives scores only; {want} needs a causal model"):
            role(role.lay_out(GROUPS), (want,))
    save_role(role, tmp_path / "reward")
    file = tmp_path / "reward" / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if k != "classifier.weight"}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"not in its weights, such as classifier\.weight"):
        load_scalar(str(tmp_path / "reward"))
