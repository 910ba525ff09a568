"""Coming in and going out."""

from __future__ import annotations

import pytest
from tests.feedback.web.conftest import BASE, PASSWORD

from tether.feedback.accounts import TRIES, WINDOW, Accounts
from tether.feedback.web.security import own_path

COOKIE = "tether_session"


def test_an_invited_person_chooses_a_name_and_is_in(visitor, store):
    token = Accounts(store).invite(admin=True)
    assert "Make your account" in visitor.get(f"/invite/{token}").text
    answer = visitor.post(f"/invite/{token}", data={"name": " root ", "password": PASSWORD}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert visitor.get("/password").status_code == 200
    assert [(user.name, user.admin) for user in store.users()] == [("root", True)]


def test_an_invitation_works_once_and_for_its_time(visitor, store, clock):
    used, old = (Accounts(store).invite(lifetime=60) for _ in range(2))
    visitor.post(f"/invite/{used}", data={"name": "ann", "password": PASSWORD})
    assert visitor.send_form(f"/invite/{used}", name="bob", password=PASSWORD).status_code == 404
    clock.forward(61)
    for token in (used, old, "made-up"):
        assert visitor.get(f"/invite/{token}").status_code == 404
    assert [user.name for user in store.users()] == ["ann"]


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [("ANN", PASSWORD, "taken"), ("bob", "short", "10 to 1000"), ("", PASSWORD, "1 to 200"), ("b", "x" * 1001, "1000")],
)
def test_a_bad_choice_is_told_and_the_invitation_stays_good(visitor, annotator, store, name, password, says):
    token = Accounts(store).invite()
    answer = visitor.post(f"/invite/{token}", data={"name": name, "password": password})
    assert answer.status_code == 422
    assert says in answer.text
    assert visitor.get(f"/invite/{token}").status_code == 200


def test_whoever_forgot_their_password_chooses_another_and_is_in(visitor, annotator, admin, store):
    link = Accounts(store).password_link(annotator.user, admin.user)
    page = visitor.get(f"/new-password/{link}").text
    assert "Choose a new password" in page
    assert 'value="ann" readonly' in page
    short = visitor.post(f"/new-password/{link}", data={"password": "short"})
    assert (short.status_code, "10 to 1000" in short.text) == (422, True)
    answer = visitor.post(f"/new-password/{link}", data={"password": "another good one"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert visitor.get("/api/me").json()["name"] == "ann"
    assert annotator.get("/password", follow_redirects=False).status_code == 303
    assert annotator.send_form("/sign-in", page="/sign-in", name="ann", password=PASSWORD).status_code == 422
    assert annotator.send_form("/sign-in", page="/sign-in", name="ann", password="another good one").status_code == 303
    assert {user.id for user in store.users()} == {admin.user, annotator.user}


def test_a_link_for_a_password_works_once_and_for_a_day(visitor, annotator, person, store, clock):
    accounts, bob = Accounts(store), person("bob")
    used, old = (accounts.password_link(user, bob.user) for user in (annotator.user, bob.user))
    visitor.post(f"/new-password/{used}", data={"password": "another good one"})
    clock.forward(86_401)
    for token in (used, old, "made-up"):
        assert visitor.get(f"/new-password/{token}").status_code == 404
        answer = visitor.send_form(f"/new-password/{token}", password="yet another one")
        assert (answer.status_code, "used or too old" in answer.text) == (404, True)
    assert accounts.sign_in("ann", "another good one")
    assert accounts.sign_in("bob", PASSWORD)


def test_a_session_there_was_ends_when_a_link_for_a_password_is_used(annotator, admin, store):
    link, before = Accounts(store).password_link(annotator.user, admin.user), admin.cookies[COOKIE]
    assert admin.send_form(f"/new-password/{link}", password="another good one").status_code == 303
    assert admin.get("/api/me").json() == {"name": "ann", "admin": False}
    assert Accounts(store).who(before) is None


def test_signing_in_out_and_in_again(annotator):
    answer = annotator.send_form("/sign-out")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    gone = annotator.get("/password?a=b", follow_redirects=False)
    assert (gone.status_code, gone.headers["location"]) == (303, "/sign-in?next=/password%3Fa%3Db")
    form = {"name": "ann", "password": PASSWORD, "next": "/password?a=b"}
    assert annotator.send_form("/sign-in", **form).headers["location"] == "/password?a=b"
    assert annotator.get("/sign-in?next=/password", follow_redirects=False).headers["location"] == "/password"


def test_a_sign_in_gives_a_new_session_and_ends_the_one_before(annotator, visitor):
    before = annotator.cookies[COOKIE]
    annotator.send_form("/sign-in", name="ann", password=PASSWORD)
    assert annotator.cookies[COOKIE] != before
    old = visitor.get("/password", headers={"cookie": f"{COOKIE}={before}"}, follow_redirects=False)
    assert old.status_code == 303


def test_a_session_somebody_else_chose_is_worth_nothing(visitor, annotator):
    planted = {"cookie": f"{COOKIE}=chosen-by-somebody-else"}
    form = {"name": "ann", "password": PASSWORD}
    answer = visitor.post("/sign-in", data=form, headers=planted, follow_redirects=False)
    assert answer.status_code == 303
    assert "chosen-by-somebody-else" not in answer.headers["set-cookie"]
    assert visitor.get("/password", headers=planted, follow_redirects=False).status_code == 303


def test_a_session_ends_after_its_time(annotator, clock):
    clock.forward(14 * 86_400 + 1)
    assert annotator.get("/password", follow_redirects=False).status_code == 303


def test_a_new_password_ends_other_sessions(annotator, person, app):
    second = type(annotator)(app, base_url=str(annotator.base_url))
    second.send_form("/sign-in", name="ann", password=PASSWORD)
    wrong = annotator.send_form("/password", old="not that one", new="another good one")
    assert (wrong.status_code, "present password is wrong" in wrong.text) == (422, True)
    assert "is changed" in annotator.send_form("/password", old=PASSWORD, new="another good one").text
    assert annotator.get("/password").status_code == 200
    assert second.get("/password", follow_redirects=False).status_code == 303
    assert second.send_form("/sign-in", page="/sign-in", name="ann", password=PASSWORD).status_code == 422


def test_guessing_is_stopped_with_a_time_to_come_back(visitor, annotator, clock):
    for _ in range(TRIES):
        assert visitor.post("/sign-in", data={"name": "ann", "password": "a guess"}).status_code == 422
    stopped = visitor.post("/sign-in", data={"name": "ann", "password": PASSWORD}, follow_redirects=False)
    assert (stopped.status_code, stopped.headers["retry-after"]) == (429, f"{WINDOW:.0f}")
    assert COOKIE not in stopped.headers.get("set-cookie", "")
    clock.forward(WINDOW + 1)
    again = visitor.post("/sign-in", data={"name": "ann", "password": PASSWORD}, follow_redirects=False)
    assert again.status_code == 303


def test_an_unknown_name_is_told_the_same_as_a_wrong_password(visitor, annotator):
    pages = [
        visitor.post("/sign-in", data={"name": name, "password": "a guess"}).text.replace(name, "NAME")
        for name in ("ann", "xyz")
    ]
    assert pages[0] == pages[1]
    assert "name or password is wrong" in pages[0]


@pytest.mark.parametrize(
    "path",
    [
        *("//evil.example", "https://evil.example", "\\\\evil.example", "/\\evil.example", "javascript:alert(1)", ""),
        *("evil", "/a\nb", "/\t/evil.example", " /x", "/%0d\r\nset-cookie:a=b"),
    ],
)
def test_a_sign_in_leads_to_own_pages_only(visitor, annotator, path):
    assert own_path(path) == "/"
    form = {"name": "ann", "password": PASSWORD, "next": path}
    assert visitor.post("/sign-in", data=form, follow_redirects=False).headers["location"] == "/"
    assert annotator.get("/sign-in", params={"next": path}, follow_redirects=False).headers["location"] == "/"


def test_colours_are_kept_and_lead_back(visitor):
    assert 'data-theme="auto"' in visitor.get("/sign-in").text
    answer = visitor.post("/theme", data={"theme": "dark", "next": "/sign-in"})
    assert 'data-theme="dark"' in answer.text
    assert visitor.post("/theme", data={"theme": "pink"}).status_code == 422
    page = visitor.get("/sign-in", params={"next": "/projects/2/task?task=3"}).text
    assert (
        'value="/sign-in?next=%2Fprojects%2F2%2Ftask%3Ftask%3D3"' in page
    )  # where the change of colours leads back to
    assert "not sent yet are kept" in page


@pytest.mark.parametrize(
    ("referer", "here"),
    [
        (f"{BASE}/admin/people?x=1", "/admin/people?x=1"),
        ("http://evil.example/admin/people", "/"),
        ("", "/"),
    ],
)
def test_colours_chosen_on_what_a_form_made_lead_back_to_the_form(admin, referer, here):
    admin.headers["referer"] = referer
    made = admin.send_form("/admin/people/invite")
    assert "/invite/" in made.text
    assert f'name="next" value="{here}"' in made.text
