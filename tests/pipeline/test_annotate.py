"""Live samples for the annotation app, from the shipped model."""

from __future__ import annotations

import pytest

from tether.errors import InputError
from tether.feedback.web.sampling import Drawing
from tether.pipeline.annotate import sample

TURNS = [{"role": "user", "content": "What did you do today?"}]


@pytest.mark.slow
def test_the_shipped_model_answers_each_prompt_in_turn():
    how = Drawing(per_checkpoint=2, max_new_tokens=4, seed=3)
    drawn = list(sample("base", ["Hello, how are", TURNS], how))
    assert [len(responses) for responses in drawn] == [2, 2]
    first = drawn[0][0]
    assert 0 < len(first.token_ids) <= 4
    assert first.sampling == {"temperature": 1.0, "max_new_tokens": 4, "seed": 3}
    assert list(sample("base", ["Hello, how are"], how)) == drawn[:1]


def test_what_is_no_model_or_too_long_is_a_sentence(tmp_path):
    with pytest.raises(InputError):
        next(iter(sample(str(tmp_path), ["hello"], Drawing())))
    with pytest.raises(InputError, match="no room for a response"):
        next(iter(sample("base", ["hello " * 5000], Drawing())))
