"""Sampling: K responses of one model to each prompt, as groups another stage can label or learn from."""

from __future__ import annotations

from typing import Any

from tether.data.template import Template
from tether.models.load import load_policy
from tether.monitor.console import Progress
from tether.pipeline.artifacts import write_jsonl
from tether.pipeline.place import Place, tokenizer_hash
from tether.pipeline.sections import BestOfNSection, SampleSection
from tether.rollout.native import NativeSampler
from tether.rollout.rows import to_rows
from tether.types import Group

PORTION = 256
"""Prompts between two updates of the progress bar."""


def answered(place: Place, section: SampleSection | BestOfNSection) -> tuple[list[Group], Template]:
    """The section's policy's responses to its prompts, with a bar that shows how far it is; and its template."""
    path = place.model(section.model)
    template = Template.load(path, end_of_turn=section.end_of_turn)
    role = load_policy(path, device=section.device)
    prompts = [g.prompt for g in place.groups(section.data, template, role.max_tokens, "prompts", report_as="data")]
    sampler = NativeSampler(role, template, section.sampling)
    groups: list[Group] = []
    with Progress(section.name, len(prompts)) as progress:
        for first in range(0, len(prompts), PORTION):
            # A seed of its own for each portion: a prompt that comes twice gets other answers.
            seed = place.seed * 1_000_003 + first
            groups += sampler.generate(prompts[first : first + PORTION], section.num_responses, seed=seed)
            progress.update(len(groups), {})
    return groups, template


def sample_stage(place: Place, say: Any) -> dict[str, Any]:
    """Writes `groups.jsonl`."""
    section = place.section
    assert isinstance(section, SampleSection)
    groups, template = answered(place, section)
    write_jsonl(place.folder / "groups.jsonl", to_rows(groups))
    (place.folder / "tokenizer.hash").write_text(tokenizer_hash(template), encoding="utf-8")
    responses = [r for g in groups for r in g.responses]
    return {
        "prompts": len(groups),
        "responses": len(responses),
        "metrics": {
            "rollout/length": sum(len(r.token_ids) for r in responses) / len(responses),
            "rollout/ended": sum(r.ended for r in responses) / len(responses),
        },
    }
