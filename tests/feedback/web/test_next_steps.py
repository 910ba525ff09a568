"""What the pages of admins and annotators say of where a project stands, and what comes next."""

import pytest
from tests.feedback.web.conftest import Browser

from tether.feedback.store import Store

FORM = {"overlap": "1", "shown": "4", "rationale": "off", "rendering": "plain", "lease_minutes": "30"} | {
    **{"gold_percent": "0", "repeat_percent": "0", "attributes": "helpful 1 7"},
    **{"skip_reasons": "no idea", "flag_reasons": "broken"},
}


@pytest.mark.parametrize(("kind", "gold"), [("ranking", True), ("rating", False)])
def test_after_prompts_come_annotators(admin: Browser, kind: str, gold: bool) -> None:
    lines = '{"prompt": "p", "responses": ["a", "b", "c", "d", "e"]}'
    made = admin.send_form("/admin/projects", **FORM, name="new", kind=kind, guideline="g", lines=lines)
    page = admin.get(made.headers["location"]).text
    assert "Each shows up to 4 responses" in page
    assert '/members">invite annotators</a>' in page
    assert ('/gold">gold</a>' in page) == gold
    assert "invite annotators" not in admin.get(made.headers["location"].partition("?")[0]).text


def test_a_kind_without_an_item_says_what_it_shows(admin: Browser) -> None:
    answer = admin.send_form("/admin/projects", **FORM, name="new", kind="edit", guideline="g", lines="only a prompt")
    assert "as many responses as kind edit shows at least (1)" in answer.text


def test_a_paused_project_says_how_it_is_opened(admin: Browser, project) -> None:
    made = project("pair", 1)
    assert "hands out nothing" not in admin.get(f"/admin/projects/{made}").text
    admin.send_form(f"/admin/projects/{made}/state", state="paused")
    page = admin.get(f"/admin/projects/{made}").text
    assert f'It is paused and hands out nothing. <a href="/admin/projects/{made}/settings">Open it</a>' in page


def test_what_is_asked_again_is_not_counted_towards_the_quota(annotator: Browser, store: Store, project) -> None:
    made = project("pair", 60, quota=40, repeat_share=0.2)
    guideline = store.add_guideline("g")
    store.add_member(made, annotator.user)
    while turn := store.claim(annotator.user, made):
        ranking = {response.id: rank for rank, response in enumerate(turn.responses)}
        store.submit(turn.id, ranking, f"key {turn.id}", guideline=guideline)
    assert store.progress(made).answers == 40
    assert '<span class="number">40 of 40</span> answered by you' in annotator.get("/").text
