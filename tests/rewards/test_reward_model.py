from __future__ import annotations

import random

import pytest
import torch
from tests.train.conftest import WORDS, Tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tether.data.template import Template
from tether.errors import InputError
from tether.models.load import load_scalar
from tether.models.role import Role
from tether.rewards.reward_model import RewardModelScorer, TextScorer
from tether.types import Group, Prompt, Response


def test_scores_are_the_classifiers_own_at_the_last_token():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    hf = LlamaForSequenceClassification(config).eval()
    source = random.Random(0)

    def ids(n):
        return tuple(source.randrange(2, 50) for _ in range(n))

    groups = [
        Group(Prompt(ids(source.randint(1, 9))), tuple(Response((*ids(source.randint(0, 9)), 1)) for _ in range(k)))
        for k in (1, 3, 2)
    ]
    with torch.no_grad():
        alone = [
            hf(torch.tensor([g.prompt.token_ids + r.token_ids])).logits.item() for g in groups for r in g.responses
        ]
    for budget in (16, 1000):
        scores = RewardModelScorer(Role(hf, "reward"), budget)(groups)
        torch.testing.assert_close(scores, torch.tensor(alone), atol=1e-5, rtol=0)
        assert not scores.requires_grad


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny BERT with a WordPiece-like tokenizer of its own."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ":", *sorted({*WORDS, "user", "assistant"})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        initializer_range=0.15,
        num_labels=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def of_policy(tiny: Tiny, turns: list[tuple[str, str]], *answers: str) -> Group:
    """As the policy has it, in its own tokens and through its chat template."""
    template = Template.load(tiny())
    prompt = template.prompt([{"role": role, "content": text} for role, text in turns])
    return Group(prompt, tuple(template.respond(prompt, answer) for answer in answers))


@pytest.mark.parametrize("between", ["", "[SEP]"])
def test_an_encoder_reads_the_texts_by_its_own_tokenizer(tiny: Tiny, encoder: str, between: str):
    scorer = TextScorer(
        load_scalar(encoder, device="cpu", require_head=True), Template.load(encoder, end_of_turn="[SEP]"), between
    )
    groups = [
        of_policy(tiny, [("user", "hello there")], "how are you", "I am fine"),
        of_policy(tiny, [("user", "hello"), ("assistant", "I am fine"), ("user", "the cat")], "the mat"),
    ]
    hf, tokenizer = scorer.role.hf, scorer.template.tokenizer
    asked = ["hello there", "hello there", "user: hello\nassistant: I am fine\nuser: the cat"]
    answers = [r.text for g in groups for r in g.responses]
    with torch.no_grad():
        alone = [
            hf(
                **tokenizer(f"{prompt} {between} {answer}", return_tensors="pt", return_token_type_ids=False)
            ).logits.item()
            for prompt, answer in zip(asked, answers, strict=True)
        ]
    assert max(alone) - min(alone) > 1e-3
    torch.testing.assert_close(scorer(groups), torch.tensor(alone), atol=1e-5, rtol=1e-5)


def test_a_long_prompt_loses_its_start_and_a_long_response_is_refused(tiny: Tiny, encoder: str):
    scorer = TextScorer(load_scalar(encoder, device="cpu"), Template.load(encoder, end_of_turn="[SEP]"))
    group = of_policy(tiny, [("user", "hello there " * 20)], "how are you", "I am")
    (read, *_), decode = (scorer.read(group),), scorer.template.decode
    assert len(read.prompt.token_ids) + 4 == scorer.role.max_tokens == 24
    assert decode(read.prompt.token_ids, special=True) == "[CLS]" + " there" + " hello there" * 9
    assert scorer([group]).isfinite().all()
    with pytest.raises(InputError, match="a response is 31 tokens long for the reward model, which reads 24"):
        scorer([of_policy(tiny, [("user", "hello")], "how are you " * 10)])


def test_an_end_token_written_out_in_a_response_is_left_out(tiny: Tiny, encoder: str):
    scorer = TextScorer(load_scalar(encoder, device="cpu"), Template.load(encoder, end_of_turn="[SEP]"))
    one, other = (of_policy(tiny, [("user", "hello")], text) for text in ("I am fine", "I am [SEP]fine"))
    assert scorer([one]).tolist() == scorer([other]).tolist()


def test_a_causal_reward_model_with_the_same_tokenizer_gives_the_same_scores_either_way(tiny: Tiny, reward_folder: str):
    role = load_scalar(reward_folder, device="cpu", require_head=True)
    groups = [of_policy(tiny, [("user", "hello there")], "how are you", "I am fine")]
    found = TextScorer(role, Template.load(reward_folder))(groups)
    torch.testing.assert_close(found, RewardModelScorer(role)(groups))
