"""Argilla's exports → records, of every version that exports feedback.

    2.x  records.to_json   {"fields": {…}, "responses": {QUESTION: [{"value", "user_id"}]}, "suggestions": {…}}
    2.x  hub, to_datasets  {FIELD: …, "QUESTION.responses": [values], "QUESTION.responses.users": [ids], …}
    1.x  FeedbackRecord    {"fields": {…}, "responses": [{"user_id", "values": {QUESTION: {"value"}}, "status"}]}
    1.x  hub               {FIELD: …, QUESTION: [{"user_id", "value", "status"}], "QUESTION-suggestion": …}

A submitted response (or one without a status, as 2.x writes JSON) is an answer, a discarded one a skip; drafts are left
out. Users are known by ids alone: they become `argilla:ID`. Fields are shown in the order they are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tether.data.rows import Row
from tether.errors import InputError
from tether.feedback.foreign import Part, Reading, Record, Said, answer_of, record_of, sort_fields

_HIDDEN = ("id", "_server_id", "external_id", "metadata", "vectors", "status", "inserted_at", "updated_at", "score")


class _Given(NamedTuple):
    """One user's values for one record."""

    user: str
    status: str | None
    values: dict[str, Any]


class _Row(NamedTuple):
    fields: dict[str, Any]
    given: list[_Given]
    suggested: list[tuple[str, str, Any]]
    """Agent, question, value."""


def is_argilla(row: Row) -> bool:
    """Whether a row looks like one of these."""
    nested = isinstance(row.get("fields"), Mapping) and "responses" in row
    return nested or any(name.endswith(".responses") for name in row) or any(map(_is_old, row.values()))


def read_argilla(rows: Sequence[Row], source: str, reading: Reading, editing: bool) -> Iterator[Record]:
    """InputError names the record and the field or question it cannot make sense of."""
    questions = {name for row in rows for name, value in row.items() if _is_old(value)}
    for number, row in enumerate(rows, 1):
        where = f"{source}, record {number}"
        try:
            found = _sorted_out(row, questions)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{where}: is no record that Argilla exports ({error!r})") from None
        fields = sort_fields(found.fields, reading, where)
        said: list[Said | None] = []
        for given in found.given:
            user = f"argilla:{given.user}"
            if given.status == "discarded":
                said.append(Said(user, skip="discarded in Argilla"))
            elif given.status in (None, "submitted"):
                parts = [Part(question, value) for question, value in given.values.items()]
                said.append(answer_of(parts, fields, user, reading, where, editing=editing))
        for agent in dict.fromkeys(agent for agent, *_ in found.suggested) if reading.suggestions else ():
            parts = [Part(question, value) for whose, question, value in found.suggested if whose == agent]
            said.append(answer_of(parts, fields, f"argilla:{agent}", reading, where, editing=editing, kind="ai"))
        record = record_of(where, fields, said, row.get("id") or row.get("external_id") or number)
        drafts = len(found.given) - sum(one.kind == "human" for one in record.said)
        yield replace(record, left_out=drafts)


def _sorted_out(row: Row, questions: set[str]) -> _Row:
    if isinstance(row.get("fields"), Mapping):
        new = isinstance(row["responses"], Mapping)
        return _nested(row) if new or row["responses"] is None else _feedback_record(row)
    if any(name.endswith(".responses") for name in row):
        return _flat(row)
    return _old_flat(row, questions)


def _nested(row: Row) -> _Row:
    answers = [
        (question, one["user_id"], one["value"], one.get("status"))
        for question, listed in (row["responses"] or {}).items()
        for one in listed
    ]
    suggested = [(str(s.get("agent")), q, s["value"]) for q, s in (row.get("suggestions") or {}).items()]
    return _Row(dict(row["fields"]), _by_user(answers), suggested)


def _feedback_record(row: Row) -> _Row:
    given = [
        _Given(str(one.get("user_id")), one.get("status"), {q: v["value"] for q, v in (one["values"] or {}).items()})
        for one in row["responses"]
    ]
    suggested = [(str(s.get("agent")), s["question_name"], s["value"]) for s in row.get("suggestions") or []]
    return _Row(dict(row["fields"]), given, suggested)


def _flat(row: Row) -> _Row:
    answers = []
    for name in row:
        if name.endswith(".responses"):
            values = row[name] or []
            users = row.get(f"{name}.users") or ["None"] * len(values)
            states = row.get(f"{name}.status") or [None] * len(values)
            question = name.removesuffix(".responses")
            answers += [(question, u, v, s) for u, v, s in zip(users, values, states, strict=True)]
    ends = [name for name in row if name.endswith(".suggestion") and row[name] is not None]
    suggested = [(str(row.get(f"{name}.agent")), name.removesuffix(".suggestion"), row[name]) for name in ends]
    fields = {n: v for n, v in row.items() if "." not in n and n not in _HIDDEN}
    return _Row(fields, _by_user(answers), suggested)


def _old_flat(row: Row, questions: set[str]) -> _Row:
    answers = []
    for question in questions:
        listed = row.get(question) or []
        if isinstance(listed, Mapping):  # a `datasets` sequence of objects is an object of lists
            listed = [dict(zip(listed, values, strict=True)) for values in zip(*listed.values(), strict=True)]
        answers += [(question, one["user_id"], _old_ranking(one["value"]), one.get("status")) for one in listed]
    ends = [f"{q}-suggestion" for q in questions if row.get(f"{q}-suggestion") is not None]
    suggested = [
        (
            str((row.get(f"{name}-metadata") or {}).get("agent")),
            name.removesuffix("-suggestion"),
            _old_ranking(row[name]),
        )
        for name in ends
    ]
    own = (*_HIDDEN, *questions, *(f"{q}-suggestion{end}" for q in questions for end in ("", "-metadata")))
    return _Row({n: v for n, v in row.items() if n not in own}, _by_user(answers), suggested)


def _old_ranking(value: Any) -> Any:
    if isinstance(value, Mapping) and value.keys() == {"rank", "value"}:
        return [{"rank": r, "value": v} for r, v in zip(value["rank"], value["value"], strict=True)]
    return value


def _is_old(value: Any) -> bool:
    """Whether this is how 1.x keeps a question's answers."""
    wanted = {"user_id", "value", "status"}
    if isinstance(value, Mapping):
        return value.keys() == wanted
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) and v.keys() == wanted for v in value)


def _by_user(answers: Sequence[tuple[str, Any, Any, Any]]) -> list[_Given]:
    """Values of questions gathered by user; the first status a user's values have is theirs."""
    found: dict[str, _Given] = {}
    for question, user, value, status in answers:
        given = found.setdefault(str(user), _Given(str(user), status, {}))
        given.values[question] = value
    return list(found.values())
