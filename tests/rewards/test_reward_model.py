from __future__ import annotations

import random

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tether.models.role import Role
from tether.rewards.reward_model import RewardModelScorer
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
