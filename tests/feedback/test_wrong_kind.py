"""Data of one kind where another is wanted: the sentence says what is there."""

import pytest

from tether.config import DataConfig
from tether.errors import InputError
from tether.feedback.dataset import make_dataset
from tether.feedback.foreign import Reading
from tether.feedback.imports import import_answers
from tether.feedback.records import Query
from tether.feedback.shapes import Options
from tether.feedback.store import Store

PAIRS = "prompt,chosen,rejected\nHi?,Hello.,No.\n"
THUMBS = '{"prompt": "Hi?", "completion": "Hello.", "label": true}\n'


@pytest.fixture
def store(tmp_path):
    (tmp_path / "pairs.csv").write_text(PAIRS)
    (tmp_path / "thumbs.jsonl").write_text(THUMBS)
    with Store.open(tmp_path / "s.db") as opened:
        import_answers(opened, DataConfig(path=str(tmp_path / "thumbs.jsonl")), "thumbs")
        yield opened


@pytest.mark.parametrize("kind", [None, "rating"])
def test_comparisons_are_refused_by_a_rating_project(kind, store, tmp_path):
    name = "another" if kind else "thumbs"
    data = DataConfig(path=str(tmp_path / "pairs.csv"))
    with pytest.raises(InputError, match=rf"pairs.csv: holds no ratings, which project '{name}' of kind rating is"):
        import_answers(store, data, name, kind=kind)
    assert [project.name for project in store.projects()] == ["thumbs"]


def test_ratings_are_refused_by_a_project_of_pairs(store, tmp_path):
    store.add_project("pairs", "pair")
    with pytest.raises(InputError, match=r"thumbs.jsonl: holds no comparisons, which project 'pairs' of kind pair is"):
        import_answers(store, DataConfig(path=str(tmp_path / "thumbs.jsonl")), "pairs")


@pytest.mark.parametrize("told", [{"prompt": "nope"}, {"responses": ("a",)}, {"ignore": ("q",)}, {"suggestions": True}])
def test_fields_are_named_of_formats_that_leave_them_open_only(told, store, tmp_path):
    data = DataConfig(path=str(tmp_path / "pairs.csv"))
    with pytest.raises(InputError, match=r"pairs.csv: is of format plain, whose fields have fixed names"):
        import_answers(store, data, "pairs", reading=Reading(**told))
    assert import_answers(store, data, "pairs", reading=Reading(annotator="ann")).answers == 1


def test_an_export_of_nothing_says_what_there_is(store, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(
        InputError, match=r"as preferences: the answers .* make rows of unpaired, ratings, judgements only"
    ):
        make_dataset(store, out)
    with pytest.raises(InputError, match="as preferences: there is no judgement that the query lets through"):
        make_dataset(store, out, query=Query(users=(77,)))
    with pytest.raises(InputError, match="as unpaired: min_votes and min_agreement leave none of its rows"):
        make_dataset(store, out, "unpaired", options=Options(min_votes=2))
    with pytest.raises(InputError, match=r"as preferences: the answers .* make rows of unpaired, ratings, judgements"):
        make_dataset(store, out, options=Options(min_votes=2))
    assert not out.exists()
