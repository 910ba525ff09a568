"""The card of an exported dataset: a README.md with the front matter that dataset hubs read.

Everything in it is counted from the judgements behind the rows. Annotators appear under the pseudonyms of the rows.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, select

from tether.data.rows import Row
from tether.feedback.agreement import Rated, Share, krippendorff_alpha, position_bias, rating_agreement, raw_agreement
from tether.feedback.asked import Asked, People, people
from tether.feedback.facts import find
from tether.feedback.records import Judgement
from tether.feedback.schema import guidelines, project_guidelines, projects
from tether.feedback.shapes import IMPORTED, Options, order_known
from tether.types import Interval

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_ABOUT = {
    "preferences": "one row for each pair of responses that the votes tell apart: `prompt`, `chosen`, `rejected`",
    "rankings": "one row for each item: `prompt`, `responses` and their `ranking` (0 the best, equal ranks tie)",
    "unpaired": "one row for each response: `prompt`, `completion`, `label` (whether it is desirable)",
    "ratings": "one row for each response: `prompt`, `response` and the mean of each rated attribute in `ratings`",
    "demonstrations": "one row for each answer an annotator wrote: `prompt`, `completion`",
    "judgements": "one row for each answer of an annotator, with the responses in the order they were `shown`",
}


class Annotator(NamedTuple):
    """One annotator's part."""

    name: str
    """The pseudonym."""
    kind: str
    answers: int
    skips: int
    seconds: float | None
    """Median over the answers that say it."""


class GuidelineText(NamedTuple):
    """What annotators were told."""

    id: int
    versions: str
    """Project and version, where it was in force."""
    text: str
    answers: int


@dataclass(frozen=True)
class Facts:
    """What the judgements behind an export come to."""

    projects: list[str]
    items: int
    prompts: int
    answers: int
    skips: int
    comparisons: int
    """Of two responses, by one annotator."""
    ties: int
    all_bad: int
    annotators: list[Annotator]
    agreement: Interval
    """Share of pairs of annotators who said the same of the same two responses (first, second, tie)."""
    alpha: Interval
    rated: Mapping[tuple[str, str], Rated]
    """Project and attribute → agreement in rating by it; scales of the same name may differ between projects."""
    bias: Share
    """How often the first shown of a pair won, where the order is known."""
    imported: int
    """Answers given in another tool or store."""
    checkpoints: list[tuple[str, int]]
    """Where responses come from, and how many."""
    guidelines: list[GuidelineText]


def facts_about(db: Connection, everything: Sequence[Asked], salt: str) -> Facts:
    """Counts what was said of these items: `asked.gather` them without the gold ones, which rows leave out."""
    who = people(db, salt)
    judged = [j for asked in everything for j in asked.judged]
    said = [j for j in judged if j.skip is None]
    table, clusters = _comparisons(everything)
    written = {r.id: r.checkpoint for asked in everything for r in asked.responses}
    counted = Counter("people or unknown" if name is None else name for name in written.values())
    named = {row.id: row.name for row in db.execute(select(projects.c.id, projects.c.name))}
    return Facts(
        projects=sorted({named[asked.item.project_id] for asked in everything}),
        items=len(everything),
        prompts=len({asked.item.prompt_key for asked in everything}),
        answers=len(said),
        skips=len(judged) - len(said),
        comparisons=int((table >= 0).sum()),
        ties=int((table == 1).sum()),
        all_bad=sum(j.all_bad for j in said),
        annotators=_annotators(judged, who),
        agreement=raw_agreement(table, clusters=clusters),
        alpha=krippendorff_alpha(table, clusters=clusters),
        rated=_rated(everything, named),
        bias=position_bias(j for j in said if order_known(j)),
        imported=sum(j.submit_key.startswith(IMPORTED) for j in said),
        checkpoints=sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])),
        guidelines=_guidelines(db, said, {i: named[i] for i in {asked.item.project_id for asked in everything}}),
    )


def _comparisons(everything: Sequence[Asked]) -> tuple[Any, Any]:
    """What each annotator said of each two responses of an item: 0 the first is better, 1 a tie, 2 the second.

    The first is the one whose hash is. A file may hold the better one first, always, and would then have annotators
    agree by chance alone (α near 0 however often they say the same).
    """
    columns = {user: at for at, user in enumerate(sorted({j.user for a in everything for j in a.rankings}))}
    rows, clusters = [], []
    for number, asked in enumerate(everything):
        for first, second in combinations([r.id for r in sorted(asked.responses, key=lambda r: r.key)], 2):
            row = [-1] * len(columns)
            for j in asked.rankings:
                ranks = j.ranking or {}
                if first in ranks and second in ranks:
                    row[columns[j.user]] = 1 + (ranks[first] > ranks[second]) - (ranks[first] < ranks[second])
            rows.append(row)
            clusters.append(number)
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(columns)), np.array(clusters, dtype=np.int64)


def _rated(everything: Sequence[Asked], named: Mapping[int, str]) -> dict[tuple[str, str], Rated]:
    found: dict[tuple[str, str], dict[tuple[int, int], dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    for asked in everything:
        for j in asked.judged:
            for response, values in (j.ratings or {}).items():
                for attribute, value in values.items():
                    found[named[asked.item.project_id], attribute][j.item, response][j.user] = value
    return {scale: rating_agreement(found[scale]) for scale in sorted(found)}


def _annotators(judged: Iterable[Judgement], who: People) -> list[Annotator]:
    of_user: dict[int, list[Judgement]] = defaultdict(list)
    for judgement in judged:
        of_user[judgement.user].append(judgement)
    found = []
    for user, theirs in of_user.items():
        skips = sum(j.skip is not None for j in theirs)
        seconds = [j.seconds for j in theirs if j.skip is None and j.seconds is not None]
        middle = median(seconds) if seconds else None
        found.append(Annotator(who.hidden(user), who.kinds[user], len(theirs) - skips, skips, middle))
    return sorted(found, key=lambda a: (-a.answers, a.name))


def _guidelines(db: Connection, said: Iterable[Judgement], named: Mapping[int, str]) -> list[GuidelineText]:
    """Only of the named projects: others may have had the same text, and their names are nobody's business here."""
    counted = Counter(j.guideline for j in said)
    in_force: dict[int, list[str]] = defaultdict(list)
    query = select(project_guidelines).order_by(project_guidelines.c.project_id, project_guidelines.c.version)
    for row in db.execute(query.where(project_guidelines.c.project_id.in_(named))):
        in_force[row.guideline_id].append(f"{named[row.project_id]}, version {row.version}")
    texts = {row.id: row.text for row in find(db, select(guidelines), guidelines.c.id, counted)}
    return [GuidelineText(i, "; ".join(in_force[i]), texts[i], counted[i]) for i in sorted(counted)]


@dataclass(frozen=True)
class Subject:
    """What a card is about."""

    name: str
    shape: str
    splits: Mapping[str, Sequence[Row]]
    files: Mapping[str, str]
    """Split → its file; empty for a saved `DatasetDict`."""
    options: Options
    last_judgement: int
    version: str
    """Of Tether."""
    license: str | None = None
    """A hub's licence identifier; `unknown` when not given, for whoever publishes it to fill in."""


def card(subject: Subject, facts: Facts) -> str:
    """The whole page."""
    parts = [
        _front(subject),
        f"# {_line(subject.name)}",
        _summary(subject, facts),
        _rows_table(subject),
        _agreement(facts),
        _annotators_table(facts),
        _responses_table(facts),
        _guideline_pages(facts),
        _how_made(subject, facts),
        _privacy(),
        _limits(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(subject: Subject) -> str:
    total = sum(len(rows) for rows in subject.splits.values())
    size = next((name for limit, name in _SIZES if total < limit), "n>1M")
    lines = [f"license: {json.dumps(subject.license or 'unknown')}", f"pretty_name: {json.dumps(subject.name)}"]
    lines += ["task_categories:", "- text-generation", "size_categories:", f"- {size}"]
    lines += ["tags:", *(f"- {tag}" for tag in ("rlhf", "human-feedback", subject.shape, "tether"))]
    if subject.files:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        lines += [f"  - split: {split}\n    path: {file}" for split, file in subject.files.items()]
    return "\n".join(["---", *lines, "---"])


def _summary(subject: Subject, facts: Facts) -> str:
    kinds = Counter(a.kind for a in facts.annotators)
    who = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"{_ABOUT[subject.shape][0].upper()}{_ABOUT[subject.shape][1:]}. "
        f"Made from {facts.answers} answers of {len(facts.annotators)} annotators ({who}) on {facts.items} items about "
        f"{facts.prompts} prompts of {_count(len(facts.projects), 'project')}: "
        f"{', '.join(_line(name) for name in facts.projects)}."
    )


def _rows_table(subject: Subject) -> str:
    lines = ["## Splits", "", "| split | rows | prompts |", "|---|---|---|"]
    for split, rows in subject.splits.items():
        lines.append(f"| {split} | {len(rows)} | {len({row['ids']['prompt'] for row in rows})} |")
    return "\n".join([*lines, "", "Every prompt is in one split only, chosen by its hash."])


def _agreement(facts: Facts) -> str:
    lines = ["## Agreement", ""]
    if facts.comparisons:
        lines += [
            f"- Two annotators who compared the same two responses said the same {_share(facts.agreement)} of the time "
            "(95 % bootstrap interval over items; ties are an answer of their own).",
            f"- Krippendorff's α: {_number(facts.alpha)} (0 is chance, 1 is full agreement).",
            f"- Ties: {_percent(facts.ties, facts.comparisons)} of {facts.comparisons} comparisons.",
        ]
    for (project, attribute), (units, alpha) in facts.rated.items():
        where = f" in {_line(project)}" if len(facts.projects) > 1 else ""
        lines.append(
            f"- Ratings by “{_line(attribute)}”{where}: Krippendorff's α, ordinal, {_number(alpha)}, over "
            f"{_count(units, 'response')} that two annotators or more rated (95 % bootstrap interval over items)."
        )
    lines += [
        f"- All responses bad: {_percent(facts.all_bad, facts.answers)} of {facts.answers} answers.",
        f"- Skipped: {_percent(facts.skips, facts.skips + facts.answers)} of {facts.skips + facts.answers} turns.",
    ]
    if facts.bias.num:
        lines.append(
            f"- The first shown of two won {facts.bias.share:.1%} of {facts.bias.num} untied pairs "
            f"(p = {facts.bias.p:.2g} against one half)."
        )
    lines += [
        "",
        "What to expect: the labellers of InstructGPT agreed 72.6 ± 1.5 % of the time with each other "
        "(Ouyang et al. 2022); open-ended prompts and close checkpoints bring that down.",
    ]
    return "\n".join(lines)


def _annotators_table(facts: Facts) -> str:
    lines = ["## Annotators", "", "| annotator | kind | answers | share | skips | median seconds |"]
    lines.append("|---|---|---|---|---|---|")
    for a in facts.annotators:
        seconds = "" if a.seconds is None else f"{a.seconds:.1f}"
        share = _percent(a.answers, facts.answers)
        lines.append(f"| `{a.name}` | {a.kind} | {a.answers} | {share} | {a.skips} | {seconds} |")
    return "\n".join(lines)


def _responses_table(facts: Facts) -> str:
    lines = ["## Responses", "", "| written by | responses |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_line(name)} | {count} |" for name, count in facts.checkpoints)])


def _guideline_pages(facts: Facts) -> str:
    parts = ["## Guidelines"]
    for g in facts.guidelines:
        where = f" ({_line(g.versions)})" if g.versions else ""
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", g.text)), default=0))
        parts.append(f"Guideline {g.id}{where}, of {_count(g.answers, 'answer')}:\n\n{fence}text\n{g.text}\n{fence}")
    return "\n\n".join(parts)


def _how_made(subject: Subject, facts: Facts) -> str:
    options = {name: getattr(subject.options, name) for name in ("held_out", "min_votes", "min_agreement")}
    options |= {"preferences": {"margin": subject.options.margin}, "rankings": {"order": subject.options.order}}.get(
        subject.shape, {}
    )
    said = ", ".join(f"{name} {value}" for name, value in options.items())
    text = (
        f"## How it was made\n\nExported by Tether {subject.version} as `{subject.shape}` from all judgements up to "
        f"number {subject.last_judgement}, with {said}. Gold items are among the rows of the shape `judgements` only."
    )
    if facts.imported < facts.answers:
        text += (
            " Annotators worked alone, without seeing each other's answers, where responses came from or which items "
            "were gold. Responses were shown in an order drawn for each annotator, and answers are stored by what the "
            "responses say, not by where they stood."
        )
    if facts.imported:
        text += (
            f" {_count(facts.imported, 'answer')} came from elsewhere: how those annotators worked, and what they saw, "
            "is not known here."
        )
    return text


def _privacy() -> str:
    return (
        "## Privacy\n\n"
        "Annotators are named by hashes of their account names with a random salt that stays in the store (or was "
        "given by whoever exported). Whoever has the salt can tell who is who: keep it apart from the data. "
        "Forgetting an annotator in the store takes their name, rationales and flags out of every later export "
        "and gives their choices, which stay, another pseudonym; a dataset already handed out is not changed by "
        "it. What annotators wrote themselves (corrections, rationales, flags, reasons to skip) may tell who they "
        "are: read it before publishing."
    )


def _limits(facts: Facts) -> str:
    lines = ["- The votes are those of these annotators by these guidelines; they stand for nobody else."]
    if len(facts.annotators) < 5:
        lines.append(f"- Few annotators ({len(facts.annotators)}): one person's taste weighs heavily.")
    if facts.annotators and facts.answers and facts.annotators[0].answers > 0.5 * facts.answers:
        lines.append("- More than half of the answers are one annotator's.")
    if any(a.kind != "human" for a in facts.annotators):
        lines.append("- Not all annotators are people: see the kinds above.")
    if facts.bias.num >= 50 and facts.bias.p < 0.01:
        lines.append("- What was shown first won more or less often than chance explains.")
    lines.append("- Prompts and responses were not checked for personal data or for anybody's rights in them.")
    return "\n".join(["## Known limits", "", *lines])


def _line(text: str) -> str:
    """Text for one line or cell of Markdown: no markup, no line breaks."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _share(interval: Interval) -> str:
    estimate, low, high = interval
    return "an unknown share" if estimate != estimate else f"{estimate:.1%}{_within(f'{low:.1%}', f'{high:.1%}', low)}"


def _number(interval: Interval) -> str:
    estimate, low, high = interval
    return "unknown" if estimate != estimate else f"{estimate:.2f}{_within(f'{low:.2f}', f'{high:.2f}', low)}"


def _within(low: str, high: str, value: float) -> str:
    return "" if value != value else f" ({low} to {high})"
