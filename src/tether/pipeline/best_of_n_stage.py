"""Rejection sampling: of n responses to each prompt keep the k best by a reward, as demonstrations (Llama 2, §3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tether.math.best_of_n import best_of_n_kl, top_k
from tether.pipeline.artifacts import write_jsonl
from tether.pipeline.place import Place, tokenizer_hash
from tether.pipeline.sample_stage import answered
from tether.pipeline.sections import BestOfNSection
from tether.rollout.rows import to_rows
from tether.types import Group


def best_of_n_stage(place: Place, say: Any) -> dict[str, Any]:
    """Writes `groups.jsonl`: each prompt with its k best responses, the best first, each with its score."""
    section = place.section
    assert isinstance(section, BestOfNSection)
    groups, template = answered(place, section)
    reward = place.reward(section.terms, template, device=section.device, token_budget=2048)
    scores = reward(groups)
    owners = torch.tensor([i for i, g in enumerate(groups) for _ in g.responses], device=scores.device)
    chosen = top_k(scores, owners, section.keep)
    of_group = torch.split(scores, [len(g.responses) for g in groups])
    kept = [best(g, own.tolist(), places) for g, own, places in zip(groups, of_group, chosen, strict=True)]
    write_jsonl(place.folder / "groups.jsonl", to_rows(kept))
    (place.folder / "tokenizer.hash").write_text(tokenizer_hash(template), encoding="utf-8")
    n, among = section.num_responses, [r.meta["score"] for g in kept for r in g.responses]
    metrics = {"bon/mean": scores.mean().item(), "bon/kept": sum(among) / len(among)}
    if section.keep == 1:
        metrics["bon/kl"] = best_of_n_kl(n)
    say(f"kept {section.keep} of {n}: score {metrics['bon/kept']:.3g} against {metrics['bon/mean']:.3g} on average")
    return {"prompts": len(kept), "responses": len(among), "metrics": metrics}


def best(group: Group, scores: list[float], places: list[int]) -> Group:
    """The group with only the responses at `places`, each knowing its score."""
    return Group(
        group.prompt,
        tuple(replace(group.responses[i], meta={**group.responses[i].meta, "score": scores[i]}) for i in places),
    )
