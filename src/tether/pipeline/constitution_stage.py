"""Critique and revision (Bai et al. 2022, section 3.1): a model mends its own answers by written principles.

answer → critique by a drawn principle → revision, as often as asked; the last revision is the demonstration, with the
very tokens sampled. Left out: few-shot examples of critiques, which models that do not follow instructions need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tether.data.template import Template
from tether.feedback.constitution import Principle, drawn, load_constitution
from tether.models.load import load_policy
from tether.monitor.console import Progress
from tether.pipeline.artifacts import write_jsonl
from tether.pipeline.place import Place, tokenizer_hash
from tether.pipeline.sections import CritiqueSection
from tether.rollout.native import NativeSampler
from tether.rollout.rows import to_rows
from tether.types import Group, Message, Prompt, Response

PORTION = 256
"""Prompts between two updates of the progress bar."""


@dataclass
class Draft:
    """A prompt on its way to a revised answer."""

    prompt: Prompt
    answer: Response
    steps: list[dict[str, str]] = field(default_factory=list)
    """For each revision: `principle`, `critique`, `before`, `after`."""
    dropped: str | None = None
    """Why it gives no demonstration: `too_long`, `unended` or `empty`."""


@dataclass
class Author:
    """The model in its three parts."""

    sampler: NativeSampler
    template: Template
    seed: int
    calls: int = 0

    def write(self, prompts: Sequence[Prompt]) -> list[Response]:
        """One sampled response to each, every call with chances of its own."""
        self.calls += 1
        groups = self.sampler.generate(prompts, 1, seed=self.seed * 1_000_003 + self.calls)
        return [group.responses[0] for group in groups]

    def asked(self, messages: Sequence[Message]) -> Prompt:
        """A conversation as the model reads it, with or without a chat template."""
        if self.template.has_chat:
            return self.template.prompt(messages)
        said = "".join(f"{message['role']}: {message['content']}\n\n" for message in messages)
        return self.template.prompt(f"{said}assistant:")

    def fits(self, prompt: Prompt) -> bool:
        """Whether there is room for a whole response."""
        return len(prompt.token_ids) + self.sampler.params.max_new_tokens <= self.sampler.role.max_tokens

    def reply(self, drafts: Sequence[Draft], conversations: Sequence[Sequence[Message]]) -> list[Response | None]:
        """The model's next turn in each conversation; a draft whose conversation has become too long is dropped."""
        prompts = [self.asked(messages) for messages in conversations]
        room = [self.fits(prompt) for prompt in prompts]
        for draft, fits in zip(drafts, room, strict=True):
            draft.dropped = draft.dropped or (None if fits else "too_long")
        written = iter(self.write([prompt for prompt, fits in zip(prompts, room, strict=True) if fits]))
        return [next(written) if fits else None for fits in room]


def critique_stage(place: Place, say: Any) -> dict[str, Any]:
    """Writes `groups.jsonl` (prompt → revised answer) and `transcripts.jsonl` (all that was said, dropped or not)."""
    section = place.section
    assert isinstance(section, CritiqueSection)
    principles = load_constitution(section.constitution)
    path = place.model(section.model)
    template = Template.load(path, end_of_turn=section.end_of_turn)
    role = load_policy(path, device=section.device)
    prompts = [g.prompt for g in place.groups(section.data, template, role.max_tokens, "prompts", report_as="data")]
    author = Author(NativeSampler(role, template, section.sampling), template, place.seed)
    drafts: list[Draft] = []
    with Progress(section.name, len(prompts)) as progress:
        for first in range(0, len(prompts), PORTION):
            portion = prompts[first : first + PORTION]
            fresh = [Draft(p, answer) for p, answer in zip(portion, author.write(portion), strict=True)]
            for number in range(section.revisions):
                revise(author, fresh, principles, number)
            drafts += fresh
            progress.update(len(drafts), {})
    for draft in drafts:
        draft.dropped = draft.dropped or unfit(draft.answer)
    groups = [demonstration(draft) for draft in drafts if draft.dropped is None]
    write_jsonl(place.folder / "groups.jsonl", to_rows(groups))
    write_jsonl(place.folder / "transcripts.jsonl", [transcript(draft) for draft in drafts])
    (place.folder / "tokenizer.hash").write_text(tokenizer_hash(template), encoding="utf-8")
    counts = Counter(draft.dropped for draft in drafts if draft.dropped)
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"
    say(f"{len(groups)} revised answers; left out: {left_out}")
    return {"prompts": len(prompts), "responses": len(groups), "dropped": dict(counts), "metrics": {}}


def revise(author: Author, drafts: Sequence[Draft], principles: Sequence[Principle], number: int) -> None:
    """One critique and one revision of every draft that is still in play."""
    going = [draft for draft in drafts if draft.dropped is None]
    chosen = [drawn(principles, author.seed, number, draft.prompt.text) for draft in going]
    talks = [
        [*opening(draft.prompt), turn("assistant", draft.answer.text), turn("user", principle.critique)]
        for draft, principle in zip(going, chosen, strict=True)
    ]
    critiques = author.reply(going, talks)
    open_ones = [
        (draft, principle, talk, critique)
        for draft, principle, talk, critique in zip(going, chosen, talks, critiques, strict=True)
        if critique is not None
    ]
    revised = author.reply(
        [draft for draft, *_ in open_ones],
        [[*talk, turn("assistant", said.text), turn("user", p.revise)] for _, p, talk, said in open_ones],
    )
    for (draft, principle, _, critique), answer in zip(open_ones, revised, strict=True):
        if answer is not None:
            step = {"principle": principle.name, "critique": critique.text}
            draft.steps.append(step | {"before": draft.answer.text, "after": answer.text})
            draft.answer = answer


def opening(prompt: Prompt) -> Sequence[Message]:
    """The conversation an answer was given in."""
    return prompt.messages or (turn("user", prompt.text),)


def turn(role: str, content: str) -> Message:
    """One turn."""
    return {"role": role, "content": content}


def unfit(answer: Response) -> str | None:
    """Why an answer teaches nothing good: it never ends, or says nothing."""
    if not answer.ended:
        return "unended"
    return None if answer.text.strip() else "empty"


def demonstration(draft: Draft) -> Group:
    """The prompt and the last revision, without log-probs: they were given after another prompt."""
    meta = {"principles": [step["principle"] for step in draft.steps]}
    return Group(draft.prompt, (Response(draft.answer.token_ids, draft.answer.text, True, meta=meta),))


def transcript(draft: Draft) -> dict[str, Any]:
    """Everything that was said, as a row."""
    said = [dict(message) for message in opening(draft.prompt)]
    return {"prompt": said, "steps": draft.steps, "answer": draft.answer.text, "dropped": draft.dropped}
