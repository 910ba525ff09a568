"""Label Studio's JSON export → records.

    {"id", "data": {…}, "annotations": [{"result": [{"from_name", "to_name", "type", "value"}], "completed_by",
     "lead_time", "created_at", "was_cancelled"}], "predictions": […]}

Understood are the controls pairwise (left, right), ranker, choices, rating, number and textarea; others are passed
over. Several choices ticked at once tie. A cancelled annotation is a skip. `completed_by` becomes the user
`label-studio:ID` (or its e-mail, where the export has that). Responses are shown in the order their fields are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tether.data.rows import Row
from tether.errors import InputError
from tether.feedback.foreign import (
    Fields,
    Part,
    Reading,
    Record,
    Said,
    answer_of,
    moment,
    place_of,
    record_of,
    sort_fields,
)

_VALUES = {"pairwise": "selected", "choices": "choices", "rating": "rating", "number": "number", "textarea": "text"}
"""Type of a result → where its value is."""


def is_label_studio(row: Row) -> bool:
    """Whether a row looks like one of these."""
    return isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list)


def read_label_studio(rows: Sequence[Row], source: str, reading: Reading, editing: bool) -> Iterator[Record]:
    """InputError names the task and the field or control it cannot make sense of."""
    for number, row in enumerate(rows, 1):
        where = f"{source}, record {number}"
        try:
            yield _record(row, reading, where, number, editing)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: is no task that Label Studio exports ({error!r})") from None


def _record(row: Row, reading: Reading, where: str, number: int, editing: bool) -> Record:
    fields = sort_fields(row["data"], reading, where)
    said = [_said(one, fields, reading, where, editing) for one in row["annotations"]]
    for one in row.get("predictions") or () if reading.suggestions else ():
        user = f"label-studio:{one.get('model_version') or 'model'}"
        parts = _parts(one["result"], fields, where)
        said.append(answer_of(parts, fields, user, reading, where, editing=editing, kind="ai"))
    return record_of(where, fields, said, row.get("id", number))


def _said(annotation: Mapping[str, Any], fields: Fields, reading: Reading, where: str, editing: bool) -> Said | None:
    user, seconds = f"label-studio:{_name(annotation.get('completed_by'))}", annotation.get("lead_time")
    told: dict[str, Any] = {"seconds": None if seconds is None else float(seconds)}
    told["created"] = moment(annotation.get("created_at"))
    if annotation.get("was_cancelled"):
        return Said(user, skip="cancelled in Label Studio", **told)
    parts = _parts(annotation["result"], fields, where)
    return answer_of(parts, fields, user, reading, where, editing=editing, **told)


def _name(completed_by: Any) -> str:
    if isinstance(completed_by, Mapping):
        return str(completed_by.get("email") or completed_by.get("id"))
    return "unknown" if completed_by is None else str(completed_by)


def _parts(result: Sequence[Mapping[str, Any]], fields: Fields, where: str) -> list[Part]:
    parts = []
    for one in result:
        kind, question = one.get("type"), str(one.get("from_name"))
        if kind == "ranker":
            parts.append(Part(question, _order(one["value"]["ranker"], fields, f"{where}, question '{question}'")))
        elif kind in _VALUES:
            value, about = one["value"][_VALUES[kind]], one.get("to_name")
            if kind == "pairwise":
                value = _side(value, str(about).split(","), fields)
            elif kind == "choices" and len(value) > 1:
                value = [{"value": label, "rank": 0} for label in value]  # those ticked together are equally good
            parts.append(Part(question, value, about, kind == "textarea"))
    return parts


def _side(selected: Any, shown: Sequence[str], fields: Fields) -> Any:
    """Which response is on the left, where the control names the fields it shows; else the first is."""
    return shown[selected == "right"] if len(shown) == 2 and set(shown) <= set(fields.names) else selected


def _order(ranker: Any, fields: Fields, where: str) -> list[str]:
    """Ids, best first: a list, or the one list of several buckets that holds any (`_` holds those not sorted)."""
    if isinstance(ranker, list):
        return [str(i) for i in ranker]
    filled = {name: ids for name, ids in ranker.items() if name != "_" and ids}
    if len(filled) != 1:
        raise InputError(f"{where}: sorts responses into {', '.join(ranker)}; a ranking is one list")
    (ids,) = filled.values()
    if any(place_of(i, fields.names) is None for i in ids):
        raise InputError(f"{where}: ranks {ids}, but the responses are {', '.join(fields.names)}")
    return [str(i) for i in ids]
