"""Labelling: annotators compare sampled responses through the preference store; out come comparisons."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tether.errors import InputError
from tether.feedback import open_store
from tether.feedback.annotators import vader_raters
from tether.feedback.records import Query
from tether.pipeline.artifacts import read_jsonl, write_json, write_jsonl
from tether.pipeline.place import Place
from tether.pipeline.sections import LabelSection
from tether.rollout.rows import from_rows, to_rows
from tether.types import Group, Message, Prompt, Response


def label_stage(place: Place, say: Any) -> dict[str, Any]:
    """Writes `preferences.sqlite` (the store), `preferences.jsonl` (its export), `train.jsonl` and `validation.jsonl`.

    A run that was killed goes on where the store stands; the export is the same as if it had not been.
    """
    section = place.section
    assert isinstance(section, LabelSection)
    source = place.artifact(section.responses)
    if not (source / "groups.jsonl").is_file():
        raise InputError(
            f"stage '{section.name}': {section.responses} has no responses to compare; name a `sample` stage"
        )
    groups = from_rows(read_jsonl(source / "groups.jsonl"))
    with open_store(place.folder / "preferences.sqlite") as store:  # it says so when SQLAlchemy is missing
        from tether.feedback.export import Export
        from tether.feedback.label import label_pairs

        report = label_pairs(
            store,
            [asdict(group) for group in groups],
            vader_raters(noise=section.noise),
            guideline=section.guideline,
            overlap=section.overlap,
            seed=place.seed,
            checkpoint=section.responses,
        )
        rows = store.export(Query(until=report.last_judgement), Export(held_out=section.held_out))
    write_jsonl(place.folder / "preferences.jsonl", rows)
    counts = {}
    for split, name in (("train", "train"), ("test", "validation")):
        kept = [comparison(row) for row in rows if row["split"] == split]
        write_jsonl(place.folder / f"{name}.jsonl", to_rows(kept))
        counts[name] = len(kept)
    (place.folder / "tokenizer.hash").write_text(
        (source / "tokenizer.hash").read_text(encoding="utf-8"), encoding="utf-8"
    )
    write_json(place.folder / "labels.json", report.as_dict())
    alpha, agreement = report.alpha, report.agreement
    say(
        f"{report.votes} votes on {report.items} pairs; agreement {agreement.estimate:.2f}, "
        f"Krippendorff's alpha {alpha.estimate:.2f}"
    )
    return {"comparisons": counts, "metrics": {}, "labels": report.as_dict()}


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
