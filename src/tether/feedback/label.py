"""Having programs label sampled responses, through the same store and the same steps as people: claim, compare, submit.

Who labels what, in which order it is shown, and every chance an annotator takes follow from the seed and the content.
So a labelling that was killed and is run again goes on where it was, and exports the very rows of one that was not.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import select

from tether.errors import InputError
from tether.feedback.active import Choice, choice
from tether.feedback.agreement import Share, krippendorff_alpha, position_bias, ranking_pairs, raw_agreement
from tether.feedback.annotators import Annotator, Verdict
from tether.feedback.facts import content_key
from tether.feedback.judges import Asked, Flips, Reader, flips_in
from tether.feedback.projects import Project
from tether.feedback.queries import item_texts
from tether.feedback.records import Answer, Assignment, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.schema import items
from tether.feedback.store import Store
from tether.types import Interval

_CHUNK = 100  # items between commits


@dataclass(frozen=True)
class Report:
    """What a labelling came to."""

    items: int
    """Questions asked: one for each group with responses to tell apart."""
    identical: int
    """Groups left out because all their responses were the same text."""
    votes: int
    skips: int
    ties: int
    """Comparisons of two responses that called them equal; a ranking of k compares C(k,2)."""
    agreement: Interval
    """Share of pairs of annotators who said the same of the same two responses (first better, second better, tie)."""
    alpha: Interval
    """Krippendorff's α of the same: 0 is what chance would give, 1 is full agreement."""
    bias: Share
    """How often the first shown of a pair won."""
    bias_by_annotator: Mapping[str, Share]
    flips: Flips
    """How often judges who were asked both ways round changed their mind with the order."""
    last_judgement: int
    """The export of these votes: `store.export(Query(until=last_judgement))`."""
    selection: Choice | None = None
    """Where only some groups were asked about, chosen by active selection: what they say of all."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **{n: getattr(self, n) for n in ("items", "identical", "votes", "skips", "ties", "last_judgement")},
            **{n: getattr(self, n).as_dict() for n in ("agreement", "alpha", "bias", "flips")},
            "bias_by_annotator": {name: bias.as_dict() for name, bias in self.bias_by_annotator.items()},
        } | ({} if self.selection is None else {"selection": self.selection.as_dict()})


def label_pairs(
    store: Store,
    groups: Iterable[Mapping[str, Any]],
    annotators: Sequence[Annotator | Reader],
    *,
    guideline: str | Sequence[str],
    overlap: int = 3,
    seed: int = 0,
    checkpoint: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    chosen: Mapping[int, Mapping[str, Any]] | None = None,
) -> Report:
    """Ask `overlap` of the annotators, drawn anew for each item, which of each group's responses they prefer.

    A group is a `tether.types.Group` as `dataclasses.asdict` gives it: `prompt` with `text`, `messages`, `token_ids`
    and `meta`, `responses` each with `text`, `token_ids` and `ended`. Responses with the same text are shown once.
    Of several guidelines each item is judged by one, drawn for it. `checkpoint` and `sampling` say where the responses
    came from. With `chosen`, only the pairs at these places are asked about, and their items keep why
    (`Selected.record()`). Running it again adds only what is missing.

    InputError: fewer annotators than the overlap, two of one name, or nothing to label.
    """
    names = _names(annotators)
    if not 1 <= overlap <= len(annotators):
        raise InputError(f"overlap {overlap}: must be between 1 and the number of annotators, {len(annotators)}")
    guidelines = [guideline] if isinstance(guideline, str) else list(guideline)
    versions = {text: store.add_guideline(text) for text in guidelines}
    users = {annotator.name: store.add_user(annotator.name, annotator.kind) for annotator in annotators}
    questions, identical = _questions(groups)
    if not questions:
        raise InputError(f"nothing to label: none of the {identical} groups has two different responses")
    if chosen is not None:
        questions = [q._replace(selection=chosen[q.place]) for q in questions if q.place in chosen]
    asks = _add(store, questions, overlap, checkpoint, dict(sampling or {}))
    order = list(asks)
    for start in range(0, len(order), _CHUNK):
        askers = {i: _chosen(seed, asks[i].content, names, overlap) for i in order[start : start + _CHUNK]}
        for annotator in annotators:
            mine = [item for item, asked in askers.items() if annotator.name in asked]
            held = store.claim_many(users[annotator.name], len(mine), among=mine) if mine else []
            asked = [Asked(one, _drawn(seed, asks[one.item].content, guidelines)) for one in held]
            said = _verdicts(annotator, asked, seed)
            store.submit_many(
                [_answer(annotator.name, a, versions[a.guideline], v) for a, v in zip(asked, said, strict=True)]
            )
    selections = [question.selection for question in asks.values() if question.selection is not None]
    return _report(store, order, identical, {user: name for name, user in users.items()}, selections)


def candidates(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the groups that `label_pairs` would ask about, what reads the same once: to choose from."""
    first: dict[str, int] = {}
    for question in _questions(groups)[0]:
        first.setdefault(content_key(question.content, question.prompt.get("messages", ())), question.place)
    return list(first.values())


def label_project(store: Store, project: int, annotators: Sequence[Annotator | Reader], *, seed: int = 0) -> Report:
    """Have programs take the open places of a project of pairs or rankings, by its guideline, settings and overlap.

    Each item's annotators are drawn for it; places that they leave open by skipping go to whoever has not had the item.
    Running it again goes on where it was, and answers again what was taken back.

    Missing: no such project. InputError: a project that asks for something else or has no guideline, a closed one, or
    two annotators of one name.
    """
    asking, names = store.project(project), _names(annotators)
    where = f"project {asking.name!r}"
    if asking.kind not in ("pair", "ranking"):
        raise InputError(f"{where}: programs judge pairs and rankings, not kind {asking.kind}")
    if asking.guideline is None:
        raise InputError(f"{where}: has no guideline to judge by; add one first")
    if asking.state != "open":
        raise InputError(f"{where}: is {asking.state}; open it first")
    users = {annotator.name: store.add_user(annotator.name, annotator.kind) for annotator in annotators}
    with store.reading() as db:
        query = select(items.c.id, items.c.key, items.c.overlap).where(items.c.project_id == project)
        asked = db.execute(query.order_by(items.c.id)).all()
    for start in range(0, len(asked), _CHUNK):
        askers = {i.id: _chosen(seed, i.key, names, i.overlap) for i in asked[start : start + _CHUNK]}
        for annotator in annotators:
            mine = [item for item, chosen in askers.items() if annotator.name in chosen]
            held = store.claim_many(users[annotator.name], len(mine), project=project, among=mine) if mine else []
            _judge(store, asking, annotator, held, seed)
    for annotator in annotators:
        while held := store.claim_many(users[annotator.name], _CHUNK, project=project):
            _judge(store, asking, annotator, held, seed)
    return _report(store, [i.id for i in asked], 0, {user: name for name, user in users.items()})


def _judge(
    store: Store, project: Project, annotator: Annotator | Reader, held: Sequence[Assignment], seed: int
) -> None:
    """Verdicts on what was claimed, in the terms the project allows, stored."""
    assert project.guideline is not None
    asked = [Asked(one, project.guideline.text) for one in held]
    answers = []
    for one, verdict in zip(asked, _verdicts(annotator, asked, seed), strict=True):
        if verdict.ranking is not None and not project.settings.ties:
            verdict = _untied(verdict, one.assignment, _draw(seed, one.assignment.key, annotator.name, "ties"))
        if not project.settings.strength:
            verdict = verdict._replace(strength=None)
        answers.append(_answer(annotator.name, one, project.guideline.id, verdict))
    while answers:
        before = store.last_judgement()
        stored = store.submit_many(answers)
        # What was claimed is open: where an old answer comes back for its key, it was taken back since.
        answers = [
            replace(a, submit_key=content_key(a.submit_key))
            for a, judgement in zip(answers, stored, strict=True)
            if judgement.id <= before
        ]


def _untied(verdict: Verdict, one: Assignment, chance: bytes) -> Verdict:
    """Ties broken at random, not by where the responses were shown."""
    ranks = verdict.ranking or ()
    places = sorted(
        range(len(ranks)), key=lambda at: (ranks[at], hashlib.sha256(chance + one.responses[at].text.encode()).digest())
    )
    return verdict._replace(ranking=tuple(places.index(at) for at in range(len(ranks))))


def _names(annotators: Sequence[Annotator | Reader]) -> list[str]:
    names = [annotator.name for annotator in annotators]
    if len(set(names)) != len(names):
        raise InputError(f"annotators {', '.join(names)}: two have the same name")
    return names


class _Question(NamedTuple):
    """A group with something to tell apart."""

    place: int
    """Among the groups."""
    prompt: Mapping[str, Any]
    responses: list[Mapping[str, Any]]
    """Those with different texts."""
    content: str
    """What is asked, hashed."""
    selection: Mapping[str, Any] | None = None


def _questions(groups: Iterable[Mapping[str, Any]]) -> tuple[list[_Question], int]:
    """What the groups ask; and how many had nothing to tell apart."""
    found, identical = [], 0
    for place, group in enumerate(groups):
        different = {response["text"]: response for response in reversed(group["responses"])}
        if len(different) < 2:
            identical += 1
        else:
            prompt, responses = group["prompt"], list(different.values())[::-1]
            found.append(_Question(place, prompt, responses, content_key(prompt["text"], sorted(different))))
    return found, identical


def _add(
    store: Store, questions: Sequence[_Question], overlap: int, checkpoint: str | None, sampling: dict[str, Any]
) -> dict[int, _Question]:
    """The item of each question."""
    prompts = store.add_prompts(
        NewPrompt(p["text"], p.get("messages", ()), p.get("token_ids", ()), p.get("meta", {}))
        for p in (question.prompt for question in questions)
    )
    responses = store.add_responses(
        NewResponse(prompt, r["text"], r.get("token_ids", ()), r.get("ended", True), checkpoint, sampling)
        for prompt, question in zip(prompts, questions, strict=True)
        for r in question.responses
    )
    ids = iter(responses)
    new = [NewItem([next(ids) for _ in q.responses], overlap, selection=q.selection) for q in questions]
    return dict(zip(store.add_items(new), questions, strict=True))


def _draw(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def _chosen(seed: int, item: str, names: Sequence[str], overlap: int) -> list[str]:
    """The annotators of an item: a random `overlap` of them."""
    return sorted(names, key=lambda name: _draw(seed, item, name))[:overlap]


def _drawn(seed: int, item: str, guidelines: Sequence[str]) -> str:
    """The guideline of an item."""
    return min(guidelines, key=lambda text: _draw(seed, item, text, "guideline"))


def _verdicts(annotator: Annotator | Reader, asked: Sequence[Asked], seed: int) -> list[Verdict]:
    if isinstance(annotator, Reader):
        return annotator.read(asked)
    return [
        annotator.compare(
            one.prompt, [r.text for r in one.responses], random.Random(_draw(seed, one.key, annotator.name))
        )
        for one, _ in asked
    ]


def _answer(name: str, asked: Asked, version: int, verdict: Verdict) -> Answer:
    one, ranking = asked.assignment, None
    if verdict.ranking is not None:
        ranking = {r.id: rank for r, rank in zip(one.responses, verdict.ranking, strict=True)}
    key = _draw(one.key, name, version, "label").hex()
    return Answer(
        one.id, key, version, ranking, strength=verdict.strength, skip=verdict.skip, rationale=verdict.rationale
    )


def _report(
    store: Store,
    items: Sequence[int],
    identical: int,
    names: Mapping[int, str],
    selections: Sequence[Mapping[str, Any]] = (),
) -> Report:
    rows = {item: at for at, item in enumerate(items)}
    until = store.last_judgement()
    judged = [j for j in store.judgements(Query(users=tuple(names), until=until)) if j.item in rows]
    columns = {user: at for at, user in enumerate(names)}
    ranks = np.full((len(items), len(names), max((len(j.shown) for j in judged), default=2)), -1)
    with store.reading() as db:
        keys = {row.id: row.key for of_item in item_texts(db, items).values() for row in of_item}
    for j in judged:  # by hash: in the order of a file the first may always be the better one, as card.py says
        given, order = j.ranking or {}, sorted(j.shown, key=keys.__getitem__)
        ranks[rows[j.item], columns[j.user], : len(j.shown)] = [given.get(r, -1) for r in order]
    table, clusters = ranking_pairs(ranks)
    of_pairs = table.reshape(len(items), -1, len(names))[:, 0]  # (I, A)
    return Report(
        items=len(items),
        identical=identical,
        votes=sum(j.ranking is not None for j in judged),
        skips=sum(j.ranking is None for j in judged),
        ties=int((table == 1).sum()),
        agreement=raw_agreement(table, clusters=clusters),
        alpha=krippendorff_alpha(table, clusters=clusters),
        bias=position_bias(judged),
        bias_by_annotator={name: position_bias(j for j in judged if j.user == user) for user, name in names.items()},
        flips=flips_in(judged),
        last_judgement=until,
        selection=choice(selections, np.stack([(of_pairs == c).sum(1) for c in (0, 2, 1)], 1)) if selections else None,
    )
