"""Labelling: annotators compare sampled responses through the preference store; out come comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tether.errors import InputError
from tether.feedback import open_store
from tether.feedback.annotators import vader_raters
from tether.feedback.records import Query
from tether.pipeline.artifacts import read_jsonl, write_json, write_jsonl
from tether.pipeline.judges import asker, check_judging, guidelines_of, judge_of
from tether.pipeline.place import Place
from tether.pipeline.sections import LabelSection
from tether.rollout.rows import from_rows, to_rows
from tether.types import Group, Message, Prompt, Response

if TYPE_CHECKING:
    from tether.feedback.store import Store


def label_stage(place: Place, say: Any) -> dict[str, Any]:
    """Writes `preferences.sqlite` (the store), `preferences.jsonl` (its export), `train.jsonl` and `validation.jsonl`.

    With `select` only some of the pairs are asked about; `selection.json` says which, and `labels.json` what their
    votes say of all.

    A run that was killed goes on where the store stands; the export is the same as if it had not been. What a judge
    said is kept in the run's folder, so that nothing is paid for twice, whatever else of the section changes.
    """
    section = place.section
    assert isinstance(section, LabelSection)
    source = place.artifact(section.responses)
    if not (source / "groups.jsonl").is_file():
        raise InputError(
            f"stage '{section.name}': {section.responses} has no responses to compare; name a `sample` stage"
        )
    sampled = from_rows(read_jsonl(source / "groups.jsonl"))
    made_with = (source / "tokenizer.hash").read_text(encoding="utf-8")
    check_judging(section)
    selection = None
    if section.select is not None:
        from tether.pipeline.selection import select_groups

        selection = select_groups(place, section.select, sampled, made_with)
    groups = [asdict(group) for group in sampled]
    chosen = None if selection is None else selection.chosen
    with open_store(place.folder / "preferences.sqlite") as store:  # it says so when SQLAlchemy is missing
        rows, labels = (by_raters if section.judge is None else by_judge)(place, section, store, groups, chosen)
    if selection is not None:
        labels["selection"]["pool"] = selection.pool
    write_jsonl(place.folder / "preferences.jsonl", rows)
    counts = {}
    for split, name in (("train", "train"), ("test", "validation")):
        kept = [comparison(row) for row in rows if row["split"] == split]
        write_jsonl(place.folder / f"{name}.jsonl", to_rows(kept))
        counts[name] = len(kept)
    (place.folder / "tokenizer.hash").write_text(made_with, encoding="utf-8")
    write_json(place.folder / "labels.json", labels)
    say(f"{told(labels)}; {counts['train']} comparisons to learn from, {counts['validation']} held out")
    return {"comparisons": counts, "metrics": {}, "labels": labels}


Labelled = tuple[list[dict[str, Any]], dict[str, Any]]
"""The exported rows, and what to report."""


Chosen = Mapping[int, Mapping[str, Any]] | None
"""Places of the groups to ask about, with why; None for all."""


def by_raters(
    place: Place, section: LabelSection, store: Store, groups: list[dict[str, Any]], chosen: Chosen
) -> Labelled:
    """Labels of the simulated raters."""
    from tether.feedback.label import label_pairs

    report = label_pairs(
        store,
        groups,
        vader_raters(noise=section.noise),
        guideline=section.guideline,
        overlap=section.overlap,
        seed=place.seed,
        checkpoint=section.responses,
        chosen=chosen,
    )
    return exported(store, report.last_judgement, section), report.as_dict()


def by_judge(
    place: Place, section: LabelSection, store: Store, groups: list[dict[str, Any]], chosen: Chosen
) -> Labelled:
    """Labels of an AI judge, refused where it does not agree with people as `calibration` wants it to.

    InputError also when it gave no verdict on anything.
    """
    from tether.feedback.judges import JudgeAnnotator, calibrate, refuse_uncalibrated
    from tether.feedback.label import label_pairs

    config = section.judge
    assert config is not None
    with judge_of(config, place.model, place.run / ".judge" / f"{section.name}.jsonl") as journal:
        judge = JudgeAnnotator(config.model[-200:], asker(journal), config.tie)
        guidelines = guidelines_of(section)
        report = label_pairs(
            store,
            groups,
            [judge],
            guideline=guidelines,
            overlap=1,
            seed=place.seed,
            checkpoint=section.responses,
            chosen=chosen,
        )
        spent = journal.spent
    labels = report.as_dict() | {
        "spent": spent._asdict() | {"cost": spent.cost(config.price_in, config.price_out)},
    }
    if not report.votes:
        why = store.judgements()[-1].skip
        raise InputError(f"stage '{section.name}': the judge gave no verdict on any of {report.items} items: {why}")
    if section.calibration is not None:
        with open_store(section.calibration.path) as people:
            by_people = people.voted_pairs(Query(user_kinds=("human",)))
        found = calibrate(store.voted_pairs(Query(until=report.last_judgement)), by_people)
        labels["calibration"] = found.as_dict()
        write_json(place.folder / "labels.json", labels)
        refuse_uncalibrated(found, section.calibration.min_agreement, section.calibration.min_pairs)
    return exported(store, report.last_judgement, section), labels


def exported(store: Store, until: int, section: LabelSection) -> list[dict[str, Any]]:
    """The comparisons all votes up to `until` come to."""
    from tether.feedback.export import Export

    return store.export(Query(until=until), Export(held_out=section.held_out))


def told(labels: dict[str, Any]) -> str:
    """The labelling in one line."""
    votes = f"{labels['votes']} votes on {labels['items']} items"
    if (by := labels.get("selection")) is not None:
        votes += f" of {by['pool']} ({by['uniform']} chosen uniformly, {by['active']} for disagreement)"
    if "spent" not in labels:
        agreement, alpha = (labels[name]["estimate"] for name in ("agreement", "alpha"))
        return votes + "".join(
            f"{text} {value:.2f}"
            for text, value in (("; agreement", agreement), (", Krippendorff's alpha", alpha))
            if value is not None
        )
    rate, spent = labels["flips"]["rate"], labels["spent"]
    flips = "" if rate is None else f"; {rate:.0%} changed sides with the order"
    alpha = labels.get("calibration", {}).get("alpha", {}).get("estimate")
    people = "" if alpha is None else f"; Krippendorff's alpha with people {alpha:.2f}"
    tokens = spent["tokens_in"] + spent["tokens_out"]
    return f"{votes}{flips}{people}; {spent['requests']} requests, {tokens} tokens, cost {spent['cost']:.4g}"


def comparison(row: dict[str, Any]) -> Group:
    """An exported row as a group of the very tokens that were sampled: the chosen response, then the rejected."""
    ids, said = row["token_ids"], row["prompt"]
    messages: tuple[Message, ...] = () if isinstance(said, str) else tuple(said)
    text = said if isinstance(said, str) else said[-1]["content"]
    prompt = Prompt(tuple(ids["prompt"]), messages, text, {**row["meta"], "item": row["ids"]["item"]})
    responses = tuple(
        Response(tuple(ids[side]), spoken(row[side]), row["ended"][side], meta={"checkpoint": row["checkpoints"][side]})
        for side in ("chosen", "rejected")
    )
    return Group(prompt, responses, {"ranking": [0, 1], "margin": row["margin"], "votes": row["votes"]})


def spoken(side: Any) -> str:
    """The text of an exported side: a string, or one assistant message."""
    return side if isinstance(side, str) else str(side[0]["content"])
