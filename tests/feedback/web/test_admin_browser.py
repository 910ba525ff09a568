"""The admins' pages in Chromium: accessible, usable on a narrow screen, and honest about what was copied."""

from __future__ import annotations

from typing import Any

import pytest
from tests.feedback.web.test_admin import project, vote

from tether.feedback.accounts import Accounts

__all__ = ["project", "vote"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_on_admins_pages_and_nothing_scrolls_sideways(
    admin: Any, annotator: Any, store: Any, project: int, vote: Any, visit: Any, scheme: str, width: int
) -> None:
    sync_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
    for name, best in (("x", 0), ("y", 1)):
        disputed = vote(name, best, flag="Other: " + "word" * 40, seconds=7.0).item
        store.add_member(project, store.add_user(name, "simulated"))
    store.record(admin.user, "settings_changed", changed={"flag_reasons": ["long" * 30]})
    admin.send_form(f"/admin/projects/{project}/export", shape="judgements")
    accounts, person = Accounts(store), annotator.user
    accounts.invite(admin=True), accounts.invite(project=project)
    link = f"/new-password/{accounts.password_link(person, admin.user)}"
    page, axe = visit(admin.user, color_scheme=scheme, viewport={"width": width, "height": 800}), sync_playwright.Axe()
    of_project = ("", "prompts", "guideline", "members", "gold", "disputes", f"disputes/{disputed}", "flags", "export")
    paths = [f"/admin/projects/{project}/{name}".rstrip("/") for name in (*of_project, "settings")]
    for path in ["/admin", "/admin/people", "/admin/audit", "/admin/projects/new", *paths, link]:
        page.goto(path)
        found = axe.run(page).response["violations"]
        assert [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found] == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        tallest = page.evaluate("Math.max(0, ...[...document.querySelectorAll('button')].map((b) => b.offsetHeight))")
        assert tallest < 60, path  # two lines: no word of a button is torn apart


@pytest.mark.parametrize(("allowed", "says"), [(True, "Copied"), (False, "Press Ctrl+C")])
def test_a_link_is_said_to_be_copied_only_when_it_is(
    admin: Any, project: int, visit: Any, allowed: bool, says: str
) -> None:
    page = visit(admin.user, f"/admin/projects/{project}/members", permissions=["clipboard-write"] if allowed else [])
    if not allowed:  # as a page that came without TLS has it
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click("text=Invite somebody new")
    page.click("[data-copy]")
    page.wait_for_selector(f"[data-copy]:text-is('{says}')")


def test_somebody_who_forgot_their_password_comes_in_by_a_link(admin: Any, annotator: Any, visit: Any) -> None:
    page = visit(admin.user, "/admin/people")
    page.on("dialog", lambda box: box.accept())
    page.click("text=New password")
    link = page.get_by_label("Link for a new password of ann").input_value()
    theirs = visit(None, link)
    theirs.fill("[name=password]", "another good one")
    theirs.click("text=Set the password")
    theirs.wait_for_selector("summary:text('ann')")
    assert annotator.get("/password", follow_redirects=False).status_code == 303  # signed out elsewhere


def test_an_item_is_made_gold_only_when_that_is_meant(admin: Any, store: Any, project: int, visit: Any) -> None:
    page, asked = visit(admin.user, f"/admin/projects/{project}/gold"), []

    def click(meant: bool) -> None:
        page.once("dialog", lambda box: (asked.append(box.message), box.accept() if meant else box.dismiss()))
        form = page.locator("form.card").first
        for place in (0, 1):
            form.locator("select").nth(place).select_option(str(place + 1))
        form.locator("button").click()

    click(meant=False)
    assert store.gold(project) == {}
    click(meant=True)
    page.wait_for_selector("text=1 gold items")
    assert len(store.gold(project)) == 1
    assert [question.split(" gold ")[0].startswith("Make item ") for question in asked] == [True, True]
