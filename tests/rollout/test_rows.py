from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tether.rollout.rows import from_rows, to_rows
from tether.types import Group, Prompt, Response

ids = st.lists(st.integers(0, 10**6), max_size=5).map(tuple)
meta = st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.none(), st.lists(st.booleans())), max_size=2)


@st.composite
def responses(draw):
    tokens = draw(ids)
    each = {"min_size": len(tokens), "max_size": len(tokens)}
    return Response(
        tokens,
        draw(st.text()),
        draw(st.booleans()),
        draw(st.none() | st.lists(st.floats(-100, 0), **each).map(tuple)),
        draw(st.none() | st.lists(st.booleans(), **each).map(tuple)),
        draw(st.integers(0, 9)),
        draw(meta),
    )


@st.composite
def groups(draw):
    messages = draw(st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()})))
    answers = draw(st.lists(responses(), max_size=3))
    labels = draw(st.just({}) | st.just({"rewards": [0.1] * len(answers)}))
    return Group(Prompt(draw(ids), tuple(messages), draw(st.text()), draw(meta)), tuple(answers), labels)


@given(st.lists(groups(), max_size=3))
def test_rows_bring_the_same_groups_back(some):
    rows = to_rows(some)
    assert from_rows(rows) == some
    assert from_rows(json.loads(json.dumps(rows))) == some
