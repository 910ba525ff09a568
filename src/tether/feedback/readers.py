"""Rows of a file → records, one reader a format.

argilla        exports of Argilla 1.x and 2.x (argilla.py)
label-studio   Label Studio's JSON (label_studio.py)
judgements     this store's own `judgements` export (judgement_rows.py)
ultrafeedback  an instruction and `completions`, each with a model's scores (Cui et al. 2023)
plain          what training reads: preference (hh-rlhf and TRL's too), ranking, unpaired
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tether.data.formats import Example, detect, understand
from tether.data.rows import Row
from tether.errors import InputError
from tether.feedback.argilla import is_argilla, read_argilla
from tether.feedback.facts import check_text
from tether.feedback.foreign import Reading, Record, Said, prompt_parts
from tether.feedback.judgement_rows import read_judgements
from tether.feedback.label_studio import is_label_studio, read_label_studio
from tether.feedback.shapes import DESIRABLE


def format_of(rows: Sequence[Row], source: str) -> str:
    """The format of a file. InputError when it is none, naming the columns."""
    looks: Mapping[str, Callable[[Row], bool]] = {
        "label-studio": is_label_studio,
        "argilla": is_argilla,
        "judgements": lambda row: {"shown", "annotator", "action", "ranks"} <= row.keys(),
        "ultrafeedback": lambda row: "instruction" in row and _are_completions(row.get("completions")),
    }
    found = next((name for name, fits in looks.items() if any(map(fits, rows))), None)
    if found is None:
        detect(list(rows[0]), source)  # says what is understood when nothing is
    return found or "plain"


def _are_completions(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) and "response" in one for one in value)


def _check_completion(completion: Mapping[str, Any], where: str) -> None:
    """InputError unless it is text by a named model, or one not named."""
    if not isinstance(completion["response"], str):
        raise InputError(f"{where}, response: is {type(completion['response']).__name__}, not text")
    model = completion.get("model")
    if model is not None and (not isinstance(model, str) or len(model) > 500):
        raise InputError(f"{where}, model: must be a name of up to 500 characters")
    check_text(model, f"{where}, model")


def _read_ultrafeedback(rows: Sequence[Row], source: str, reading: Reading, editing: bool) -> Iterator[Record]:
    """A model's overall scores as a ranking, its ratings of aspects beside it where it gave all of them."""
    for number, row in enumerate(rows, 1):
        where, given = f"{source}, record {number}", row.get("completions")
        asked = row.get("instruction")
        if not isinstance(asked, str) or not asked or not isinstance(given, list) or not _are_completions(given):
            raise InputError(f"{where}: needs an instruction, and completions each with a response")
        for at, one in enumerate(given, 1):
            _check_completion(one, f"{where}, completion {at}")
        ratings = [_aspects(one, f"{where}, completion {at}") for at, one in enumerate(given, 1)]
        whole = ratings[:1] and ratings[0] and all(r.keys() == ratings[0].keys() for r in ratings)
        scores = [
            _score(one, rated, f"{where}, completion {at}")
            for at, (one, rated) in enumerate(zip(given, ratings, strict=True), 1)
        ]
        order = sorted(set(scores), reverse=True)
        ranks = tuple(order.index(score) for score in scores) if len(given) > 1 else None
        if ranks is None and not whole:
            raise InputError(f"{where}: has {len(given)} completions and no ratings, so nothing is said of them")
        said = Said(reading.annotator if reading.annotator != "imported" else "ultrafeedback", "ai", ranks)
        yield Record(
            where,
            asked,
            tuple(one["response"] for one in given),
            (replace(said, ratings=tuple(ratings) if whole else None),),
            checkpoints=tuple(one.get("model") for one in given),
            meta={"id": str(row.get("id", number))},
        )


def _aspects(completion: Mapping[str, Any], where: str) -> dict[str, int]:
    """Aspect → rating; those marked N/A are left out."""
    found = {}
    given = completion.get("annotations") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"{where}, annotations: is {type(given).__name__}, not aspects with their ratings")
    for aspect, told in given.items():
        rating = told.get("Rating") if isinstance(told, Mapping) else None
        if rating not in (None, "N/A"):
            try:
                found[aspect[:40]] = int(rating)
            except (TypeError, ValueError):
                raise InputError(f"{where}, annotations.{aspect}.Rating: {rating!r} is no whole number") from None
    return found


def _score(completion: Mapping[str, Any], ratings: Mapping[str, int], where: str) -> float:
    given = completion.get("overall_score", completion.get("fine-grained_score"))
    if given is None and ratings:
        return sum(ratings.values()) / len(ratings)
    if isinstance(given, bool) or not isinstance(given, int | float) or given != given:
        raise InputError(f"{where}, overall_score: is {given!r}, not a number, and no rating stands in for it")
    return given


def _read_plain(rows: Sequence[Row], source: str, reading: Reading, editing: bool) -> Iterator[Record]:
    """Rows that training reads, as answers of one user."""
    found = detect(list(rows[0]), source)
    if found not in ("preference", "ranking", "unpaired"):
        say = "train a process reward model on it as it is" if found == "steps" else "it holds no answers of annotators"
        raise InputError(f"{source}: holds {found} data; {say}")
    for example in understand(rows, found, source, "train"):
        yield _plain(example, found, f"{source}, record {example.row}", reading)


def _plain(example: Example, found: str, where: str, reading: Reading) -> Record:
    text, messages = prompt_parts(example.prompt or "")
    best = min(example.labels)
    said = Said(reading.annotator, ranks=tuple(rank - best for rank in example.labels))
    if found == "unpaired":
        said = Said(reading.annotator, ratings=({DESIRABLE.name: int(example.labels[0])},))
    return Record(where, text, example.responses, (said,), messages, meta={"id": str(example.meta["id"])})


READERS: Mapping[str, Callable[[Sequence[Row], str, Reading, bool], Iterator[Record]]] = {
    "argilla": read_argilla,
    "label-studio": read_label_studio,
    "judgements": read_judgements,
    "ultrafeedback": _read_ultrafeedback,
    "plain": _read_plain,
}
"""Format → (rows, source, reading, whether text is a better answer) → records."""
