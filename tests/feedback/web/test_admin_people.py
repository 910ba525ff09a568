"""Invitations and links for a new password: who makes them, who ends them, and who gets nothing by them."""

from __future__ import annotations

import re

import pytest
from tests.feedback.web.conftest import BASE, PASSWORD
from tests.feedback.web.test_admin import project

from tether.errors import InputError
from tether.feedback.accounts import Accounts

__all__ = ["project"]


def rows_of(page: str) -> list[str]:
    """The rows of the table of open invitations, as text."""
    _, _, after = page.partition("<h2>Open invitations</h2>")
    return [
        re.sub(r"<[^>]+>|\s+", " ", row) for row in re.findall(r"<tr>(.*?)</tr>", after.partition("</table>")[0], re.S)
    ][1:]


def test_open_invitations_are_listed_and_revoked(admin, visitor, store, project):
    other, people, members = store.add_project("plants"), "/admin/people", f"/admin/projects/{project}/members"
    assert "Open invitations" not in admin.get(people).text + admin.get(members).text
    made = [f"{people}/invite", f"/admin/projects/{project}/invite", f"/admin/projects/{other}/invite"]
    answers = [admin.send_form(path).text for path in made]
    tokens = [re.search(rf'value="{BASE}/invite/([\w-]+)"', page)[1] for page in answers]
    assert [len(rows_of(page)) for page in answers] == [1, 1, 1]
    page = admin.get(people).text
    assert all("2027-01-15 08:00 UTC" in row and "2027-01-22 08:00 UTC" in row for row in rows_of(page))
    assert sorted(re.search(r"an admin|animals|plants", row)[0] for row in rows_of(page)) == [
        "an admin",
        "animals",
        "plants",
    ]
    assert not [token for token in tokens if token in page]
    (name,) = re.findall(r"/invites/([0-9a-f]{12})/revoke", admin.get(members).text)
    assert admin.send_form(f"/admin/projects/{other}/invites/{name}/revoke").status_code == 404
    assert admin.send_form(f"/admin/projects/{project}/invites/{name}/revoke").headers["location"] == members
    assert [visitor.get(f"/invite/{token}").status_code for token in tokens] == [200, 404, 200]
    assert rows_of(admin.get(members).text) == []
    assert "invite revoked" in admin.get("/admin/audit").text
    for left in re.findall(r"/invites/([0-9a-f]{12})/revoke", admin.get(people).text):
        assert admin.send_form(f"{people}/invites/{left}/revoke").headers["location"] == people
    gone = admin.send_form(f"{people}/invites/{name}/revoke")
    assert (gone.status_code, "is not open" in gone.text) == (404, True)
    assert {visitor.get(f"/invite/{token}").status_code for token in tokens} == {404}


@pytest.mark.parametrize("name", ["%25", "_" * 12, "%00", "0" * 64, "ABCDEFABCDEF"])
def test_what_names_no_invitation_revokes_none(admin, store, name):
    Accounts(store).invite()
    assert admin.send_form(f"/admin/people/invites/{name}/revoke").status_code == 422
    assert len(Accounts(store).invites()) == 1


def test_an_admin_makes_a_link_for_a_new_password(admin, annotator, visitor, store, project):
    store.add_member(project, annotator.user)
    page = admin.send_form(f"/admin/people/{annotator.user}/password").text
    assert "Give this link to ann and nobody else" in page
    first = re.search(rf'value="{BASE}(/new-password/[\w-]+)"', page)[1]
    assert "a new password of ann" in rows_of(admin.get("/admin/people").text)[0]
    assert first not in admin.get("/admin/people").text
    second = re.search(
        rf'value="{BASE}(/new-password/[\w-]+)"', admin.send_form(f"/admin/people/{annotator.user}/password").text
    )[1]
    assert [visitor.get(link).status_code for link in (first, second)] == [404, 200]
    assert visitor.post(second, data={"password": "another good one"}).status_code == 200
    assert rows_of(admin.get("/admin/people").text) == []
    assert [user.id for user in store.members(project)] == [annotator.user]  # the same account
    log = admin.get("/admin/audit").text
    assert log.count("password link made") == 2
    assert log.count("password renewed") == 1


def test_nobody_gets_a_link_for_a_password_who_has_none_and_no_admin_for_their_own(admin, annotator, store):
    program, gone = store.add_user("judge", "ai"), annotator.user
    store.forget_user(gone)
    for user in (program, gone, admin.user):
        assert admin.send_form(f"/admin/people/{user}/password").status_code == 422, user
    assert admin.send_form("/admin/people/999/password").status_code == 404
    assert "New password<" not in admin.get("/admin/people").text
    assert Accounts(store).invites() == []


def test_annotators_neither_make_links_nor_revoke_any(annotator, person, store):
    accounts, project, bob = Accounts(store), store.add_project("animals"), person("bob")
    accounts.invite(project=project)
    link = accounts.password_link(bob.user, bob.user)
    before = accounts.invites()
    paths = [f"/admin/people/{user}/password" for user in (annotator.user, bob.user)]
    bases = ("/admin/people", f"/admin/projects/{project}")
    paths += [f"{base}/invites/{invite.name}/revoke" for base in bases for invite in before]
    for path in paths:
        assert annotator.send_form(path).status_code == 403, path
    assert (accounts.invites(), accounts.check_password_link(link)) == (before, "bob")


def test_a_link_for_a_password_sets_nobody_elses(visitor, annotator, person, store):
    bob = person("bob")
    link = Accounts(store).password_link(annotator.user, bob.user)
    said = {"password": "another good one", "person": bob.user, "user": bob.user, "user_id": bob.user, "name": "bob"}
    assert visitor.post(f"/new-password/{link}", data=said, follow_redirects=False).status_code == 303
    assert visitor.get("/api/me").json()["name"] == "ann"
    assert bob.get("/password", follow_redirects=False).status_code == 200
    with pytest.raises(InputError, match="password is wrong"):
        Accounts(store).sign_in("bob", "another good one")


@pytest.mark.parametrize("door", ["invite", "new-password"])
def test_a_guess_at_a_link_costs_no_hashing(app, visitor, store, person, monkeypatch, door):
    accounts, user = app.state.accounts, person("ann").user
    good = {"invite": accounts.password_link(user, user), "new-password": accounts.invite(admin=True)}
    hashed = []
    monkeypatch.setattr(accounts, "_hash", hashed.append)
    for token in ("x", "%00", "é", good[door]):  # the last is good at the other door
        for method in ("GET", "POST"):
            answer = visitor.request(method, f"/{door}/{token}", data={"name": "eve", "password": PASSWORD})
            assert answer.status_code == 404, token
            assert "unknown, used or too old" in answer.text
    assert hashed == []
    assert [user.name for user in store.users()] == ["ann"]
