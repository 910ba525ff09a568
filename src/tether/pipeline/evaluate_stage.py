"""Evaluation: a policy against a baseline on new prompts, and the reward model against votes it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tether.data.template import Template
from tether.evals.bootstrap import interval
from tether.evals.divergence import sequence_kl
from tether.evals.diversity import distinct_n
from tether.evals.reward_quality import reward_quality
from tether.evals.winrate import win_rate
from tether.models.load import load_policy
from tether.models.plan import infer
from tether.pipeline.artifacts import write_json
from tether.pipeline.place import Place, check_same_tokens
from tether.pipeline.sections import EvaluateSection
from tether.rollout.native import NativeSampler
from tether.types import Group, Scorer


def evaluate_stage(place: Place, say: Any) -> dict[str, Any]:
    """Writes `evaluation.json` with every answer; returns the figures."""
    section = place.section
    assert isinstance(section, EvaluateSection)
    template = Template.load(place.model(section.model), end_of_turn=section.end_of_turn)
    check_same_tokens(f"baseline {section.baseline}", place.model(section.baseline), template)
    policy = load_policy(place.model(section.model), device=section.device)
    baseline = load_policy(place.model(section.baseline), device=section.device)
    prompts = [g.prompt for g in place.groups(section.data, template, policy.max_tokens, "prompts", report_as="data")]
    answers = {
        name: NativeSampler(role, template, section.sampling).generate(prompts, 1, seed=place.seed)
        for name, role in (("policy", policy), ("baseline", baseline))
    }
    judge = place.scorer(section.judge, template, device=section.device, token_budget=2048)
    gold = {name: judge(groups) for name, groups in answers.items()}

    metrics: dict[str, Any] = {
        "win_rate": win_rate(gold["policy"].tolist(), gold["baseline"].tolist()).as_dict(),
        "kl": policy_kl(answers["policy"], baseline, section.sampling.temperature),
        **{name: behaviour(groups, gold[name].tolist()) for name, groups in answers.items()},
    }
    scores = {f"{name} gold": column.tolist() for name, column in gold.items()}
    if section.reward is not None:
        reward = place.scorer(section.reward, template, device=section.device, token_budget=2048)
        for name, groups in answers.items():
            proxy = reward(groups)
            metrics[name]["proxy"] = proxy.mean().item()
            scores[f"{name} proxy"] = proxy.tolist()
        if section.comparisons is not None:
            groups = place.groups(section.comparisons, template, policy.max_tokens, "preference")
            metrics["reward_model"] = comparisons_quality(reward, groups)
    write_json(place.folder / "evaluation.json", {"metrics": metrics, "samples": rows(answers, scores)})
    return {"prompts": len(prompts), "metrics": metrics}


def policy_kl(groups: Sequence[Group], baseline: Any, temperature: float) -> dict[str, Any]:
    """KL(policy ‖ baseline) in nats a response, from the policy's own samples, with its bootstrap interval."""
    ref = infer(baseline, groups, ("logprobs",), temperature=temperature, token_budget=2048).logprobs
    logprobs = torch.tensor([p for g in groups for p in g.responses[0].logprobs or ()])
    return sequence_kl(logprobs.tolist(), ref.tolist(), [g.responses[0].num_trained for g in groups]).as_dict()


def behaviour(groups: Sequence[Group], gold: Sequence[float]) -> dict[str, Any]:
    """Gold score, length and diversity of one model's answers."""
    responses = [g.responses[0] for g in groups]
    texts = [r.text for r in responses]
    commonest = max(set(texts), key=lambda t: (texts.count(t), t))
    return {
        "gold": interval(gold).as_dict(),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "length": sum(r.num_trained for r in responses) / len(responses),
        "ended": sum(r.ended for r in responses) / len(responses),
        "commonest": {"text": commonest, "share": texts.count(commonest) / len(texts)},
    }


def comparisons_quality(reward: Scorer, groups: Sequence[Group]) -> dict[str, Any]:
    """Held-out accuracy and calibration of the reward model."""
    scores = reward(groups)
    chosen, rejected, first = [], [], 0
    for group in groups:
        ranking = group.labels["ranking"]
        best, worst = (
            min(range(len(ranking)), key=ranking.__getitem__),
            max(range(len(ranking)), key=ranking.__getitem__),
        )
        chosen.append(scores[first + best].item())
        rejected.append(scores[first + worst].item())
        first += len(ranking)
    return reward_quality(chosen, rejected).as_dict()


def rows(answers: dict[str, list[Group]], scores: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row a prompt: both answers and their scores."""
    return [
        {
            "prompt": group.prompt.text,
            "answers": {name: groups[i].responses[0].text for name, groups in answers.items()},
            "scores": {name: round(column[i], 4) for name, column in scores.items()},
        }
        for i, group in enumerate(answers["policy"])
    ]
