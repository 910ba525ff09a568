"""Projects: settings that are checked, guideline versions that are acknowledged, members."""

from __future__ import annotations

import math

import pytest

from tether.errors import InputError
from tether.feedback.projects import Attribute, Settings, settings_of
from tether.feedback.records import Missing
from tether.feedback.store import Store


@pytest.fixture
def store(database: str):
    with Store.open(database) as opened:
        yield opened


def test_a_project_is_made_once_and_keeps_its_kind(store):
    first = store.add_project("helpful", "ranking", Settings(shown=4, overlap=2))
    assert store.add_project("helpful", "ranking") == first
    with pytest.raises(InputError, match="is there already, of kind ranking"):
        store.add_project("helpful")
    found = store.project(first)
    assert (found.settings.shown, found.state, found.guideline) == (4, "open", None)
    assert [p.id for p in store.projects()] == [first]  # "default" is not listed while nothing was asked in it
    store.change_project(first, state="paused", settings=Settings(overlap=5))
    assert (store.project(first).state, store.project(first).settings.overlap) == ("paused", 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.add_project(" "), "1 to 200 characters"),
        (lambda s: s.add_project("p", "quiz"), "kind 'quiz' is none of pair, ranking, rating, edit"),
        (lambda s: s.add_project("p", "rating"), "needs one or more attributes"),
        (lambda s: s.project(77), "project 77: there is no such project"),
        (lambda s: s.change_project(1, state="asleep"), "'asleep' is none of open, paused, closed"),
        (lambda s: s.add_member(77, 1), "there is no such project"),
        (lambda s: settings_of({"overlap": 0}), "project settings, overlap: .*greater than or equal to 1"),
        (lambda s: settings_of({"lease": math.inf}), "project settings, lease: .*finite"),
        (lambda s: settings_of({"overlaps": 1}), "project settings, overlaps: Extra inputs"),
        (lambda s: settings_of({"attributes": [{"name": "a", "low": 3, "high": 3}]}), "attributes.0.*below high"),
        (lambda s: settings_of({"attributes": [{"name": "a"}, {"name": "a"}]}), "a name of its own"),
    ],
)
def test_what_is_wrong_is_said(store, call, message):
    with pytest.raises(InputError, match=message):
        call(store)


def test_settings_survive_the_database(store):
    wanted = Settings(attributes=(Attribute(name="harmless", low=0, high=4),), rationale="required", quota=9)
    assert store.project(store.add_project("p", "rating", wanted)).settings == wanted


def test_a_new_guideline_must_be_read_again(store):
    project, other = store.add_project("p"), store.add_project("q")
    user = store.add_user("ann")
    assert store.has_acknowledged(user, project)  # nothing to read
    first = store.add_guideline("Be kind.", project)
    assert store.add_guideline("Be kind.", project) == first
    assert [g.version for g in store.guidelines(project)] == [1]
    assert not store.has_acknowledged(user, project)
    for _ in range(2):
        store.acknowledge(user, project, first)
    assert store.has_acknowledged(user, project)
    second = store.add_guideline("Be kind and brief.", project)
    assert not store.has_acknowledged(user, project)
    with pytest.raises(InputError, match="not in force"):
        store.acknowledge(user, project, first)
    assert store.add_guideline("Be kind.", project) == first  # back to the first text, as version 3
    assert [(g.version, g.id) for g in store.guidelines(project)] == [(1, first), (2, second), (3, first)]
    assert store.has_acknowledged(user, project)
    assert store.add_guideline("Be kind.", other) == first
    assert not store.has_acknowledged(user, other)


def test_members_come_and_go(store):
    project, user = store.add_project("p"), store.add_user("ann")
    for _ in range(2):
        store.add_member(project, user)
    assert store.is_member(project, user)
    assert [p.name for p in store.projects_of(user)] == ["p"]
    assert [m.name for m in store.members(project)] == ["ann"]
    store.remove_member(project, user)
    assert not store.is_member(project, user)
    with pytest.raises(Missing):
        store.user(99)
