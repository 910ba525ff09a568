"""What must not be possible, whoever asks."""

from __future__ import annotations

import importlib
import json
import logging
import pkgutil
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from fastapi import APIRouter
from tests.feedback.web.conftest import BASE, PASSWORD, Browser

import tether.feedback.web
from tether.errors import InputError, Unavailable
from tether.feedback.accounts import Accounts
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.web.app import create_app
from tether.feedback.web.new_project import checkpoint_at, own_file
from tether.feedback.web.security import HEADERS, MAX_BODY, MAX_UPLOAD

SAFE = {"GET", "HEAD", "OPTIONS"}
OPEN = {"/sign-in", "/invite/{token}", "/new-password/{token}", "/api/sign-in", "/theme", "/sign-out"}
"""What can be asked without being signed in."""


class Route(NamedTuple):
    method: str
    path: str

    @property
    def filled(self) -> str:
        """The path with numbers in the place of its parameters."""
        return re.sub(r"\{[^}]*}", "1", self.path)


def routes() -> list[Route]:
    """Every route of every module of the app."""
    modules = [
        importlib.import_module(f"tether.feedback.web.{m.name}")
        for m in pkgutil.iter_modules(tether.feedback.web.__path__)
    ]
    routers = [router for module in modules if isinstance(router := getattr(module, "router", None), APIRouter)]
    found = {Route(method, route.path) for router in routers for route in router.routes for method in route.methods}
    return sorted(found)


UNSAFE = [route for route in routes() if route.method not in SAFE]
ADMINS = [route for route in routes() if route.path.startswith("/admin")]


def test_the_list_of_routes_is_whole(app):
    described = {Route(method.upper(), path) for path, ways in app.openapi()["paths"].items() for method in ways}
    assert described == {route for route in routes() if route.method not in ("HEAD", "OPTIONS")}
    assert len(UNSAFE) > 20
    assert len(ADMINS) > 25


@pytest.mark.parametrize("token", [None, "", "0" * 64, "somebody else's"])
def test_no_change_goes_without_the_token_of_our_own_form(admin, annotator, store, token):
    store.add_project("animals")
    if token == "somebody else's":
        token = re.search(r'name="csrf" content="(\w+)"', annotator.get("/password").text)[1]
    before = [event.action for event in store.audit()]
    for route in UNSAFE:
        form = {} if token is None else {"data": {"csrf": token}, "headers": {"x-csrf-token": token}}
        answer = admin.request(route.method, route.filled, follow_redirects=False, **form)
        assert answer.status_code == 403, route
    assert [event.action for event in store.audit()] == before
    assert admin.get("/password", follow_redirects=False).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_no_change_comes_from_another_site(visitor, admin, headers):
    token = re.search(r'name="csrf" content="(\w+)"', admin.get("/password").text)[1]
    for route in UNSAFE:
        for browser in (visitor, admin):
            answer = browser.request(
                route.method, route.filled, data={"csrf": token}, headers=headers, follow_redirects=False
            )
            assert answer.status_code == 403 or (browser is visitor and route.path.startswith("/admin")), route


def test_our_own_forms_are_taken(annotator):
    headers = {"origin": BASE, "sec-fetch-site": "same-origin"}
    token = re.search(r'name="csrf" content="(\w+)"', annotator.get("/password").text)[1]
    form = {"csrf": token, "old": PASSWORD, "new": "another good one"}
    assert annotator.post("/password", data=form, headers=headers).status_code == 200


@pytest.mark.parametrize("route", ADMINS, ids=str)
def test_admins_pages_are_for_admins(visitor, annotator, route):
    asked = visitor.request(route.method, route.filled, follow_redirects=False)
    assert asked.status_code == 303
    assert asked.headers["location"].startswith("/sign-in")
    assert annotator.request(route.method, route.filled, follow_redirects=False).status_code == 403


def test_admins_paths_are_guarded_even_where_there_is_nothing(annotator, admin):
    for path in ("/admin/", "/admin/nothing", "/admin//people", "/admin/%2e%2e/password"):
        assert annotator.get(path, follow_redirects=False).status_code in (403, 404)
        assert admin.get(path, follow_redirects=False).status_code == 404


def test_whoever_is_not_signed_in_gets_nothing(visitor, store):
    store.add_project("animals")
    for route in routes():
        if route.path in OPEN:
            continue
        answer = visitor.request(route.method, route.filled, follow_redirects=False)
        if route.path.startswith("/api/"):
            assert (answer.status_code, answer.json()) == (401, {"error": "sign in first"}), route
        else:
            assert answer.status_code == 303, route
            assert answer.headers["location"].startswith("/sign-in"), route
        assert "animals" not in answer.text
    assert visitor.get("/api/openapi.json").status_code == 401


def test_a_bearer_that_is_none_is_no_cookie(annotator):
    for value in ("Bearer", "Bearer x", f"Basic {annotator.cookies['tether_session']}", "bearer  "):
        assert annotator.get("/api/me", headers={"authorization": value}).status_code == 401


def test_a_program_needs_no_form_token(app, store, annotator):
    token = Accounts(store).token_for(annotator.user)
    program = Browser(app, base_url=BASE, headers={"authorization": f"Bearer {token}"})
    form = {"old": PASSWORD, "new": "another good one"}
    assert program.post("/password", data=form).status_code == 200


@pytest.fixture
def labelled(store, person):
    """Two annotators of two projects, each with an answer; the first's turn is open too."""
    found = {}
    for name in ("animals", "plants"):
        project = store.add_project(name)
        prompts = store.add_prompts(NewPrompt(f"{name} {i}") for i in range(3))
        said = store.add_responses(NewResponse(p, text) for p in prompts for text in ("aa", "bb"))
        store.add_items(NewItem(said[at : at + 2], project=project) for at in (0, 2, 4))
        guideline = store.add_guideline(f"About {name}.", project)
        browser = person(f"friend of {name}", project=project)
        store.acknowledge(browser.user, project, guideline)
        found[name] = (browser, project)
    return found


def test_annotators_reach_nothing_of_others(labelled, store):
    (mine, my_project), (theirs, _) = labelled.values()
    task = mine.post(f"/api/projects/{my_project}/claim", headers=token_of(mine), json={}).json()["tasks"][0]
    answer = {"submit_key": "mine", "guideline_version": 1, "ranking": [0, 1]}
    said = mine.post(f"/api/assignments/{task['assignment']}/answer", headers=token_of(mine), json=answer)
    assert said.status_code == 200, said.text
    for ending, body in (("answer", {**answer, "submit_key": "x"}), ("undo", {"submit_key": "y"}), ("heartbeat", {})):
        tried = theirs.post(f"/api/assignments/{task['assignment']}/{ending}", headers=token_of(theirs), json=body)
        assert tried.status_code == 404, (ending, tried.text)
    for path in ("guideline", "task", "history"):
        assert theirs.get(f"/projects/{my_project}/{path}").status_code == 404, path
    for method, path, body in (
        ("GET", "guideline", None),
        ("GET", "history", None),
        ("POST", "claim", {}),
        ("POST", "acknowledge", {"version": 1}),
    ):
        tried = theirs.request(method, f"/api/projects/{my_project}/{path}", headers=token_of(theirs), json=body)
        assert tried.status_code == 404, path
        assert "animals" not in tried.text
    assert "animals" not in theirs.get("/").text + theirs.get("/api/projects").text
    assert len(store.judgements()) == 1


def token_of(browser: Browser) -> dict[str, str]:
    return {"x-csrf-token": re.search(r'name="csrf" content="(\w+)"', browser.get("/password").text)[1]}


def test_every_answer_is_guarded(visitor, annotator, admin, app):
    pages = [("GET", "/sign-in"), ("GET", "/nothing"), ("GET", "/admin"), ("POST", "/sign-in"), ("PUT", "/sign-in")]
    pages += [("GET", "/static/app.css"), ("GET", "/static/nothing"), ("GET", "/api/me")]
    pages += [("GET", "/invite/x"), ("GET", "/new-password/x")]
    for browser in (visitor, annotator, admin):
        for method, path in pages:
            headers = browser.request(method, path, follow_redirects=False).headers
            assert {name: headers[name] for name in HEADERS} == HEADERS, path
            assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
            assert "server" not in headers
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/api/broken", "/broken"])
def test_an_error_tells_nothing(app, admin, path):
    @app.get(path)
    def broken() -> None:
        raise RuntimeError("the secret of the house")

    client = Browser(app, base_url=BASE, raise_server_exceptions=False, cookies=dict(admin.cookies))
    answer = client.get(path)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_a_store_that_is_away_is_no_bug(app, admin, visitor, caplog):
    @app.get("/away")
    @app.get("/api/away")
    def away() -> None:
        raise Unavailable("the host and port of the database")

    for browser, path in ((admin, "/away"), (visitor, "/api/away")):
        answer = browser.get(path)
        assert answer.status_code == 503
        assert "cannot reach its store" in answer.text
        assert "host" not in answer.text
    assert caplog.messages.count("the host and port of the database") == 2


def test_no_page_has_anything_the_policy_would_stop(admin, annotator, visitor, labelled):
    pages = [(visitor, "/sign-in"), (annotator, "/")]
    pages += [(admin, route.path.replace("{project}", "2")) for route in ADMINS if route.method == "GET"]
    for browser, path in pages:
        said = browser.get(path).text
        assert not re.search(
            r"<style|<script(?! type=\"module\" src=\"/static/)|\sstyle=|\son\w+=|javascript:", said
        ), path
        assert not re.search(r"(?:src|href|action)=\"(?!/|#)", said), path


def test_cookies_are_for_us_alone(store):
    Accounts(store).accept(Accounts(store).invite(), "ann", PASSWORD)
    for secure in (False, True):
        browser = Browser(create_app(store, secure=secure), base_url=BASE)
        answers = [
            browser.post("/sign-in", data={"name": "ann", "password": PASSWORD}, follow_redirects=False),
            browser.post("/theme", data={"theme": "dark"}, follow_redirects=False, headers={"cookie": "a=b"}),
        ]
        for answer in answers:
            if answer.status_code == 403:
                continue
            flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
            assert {"httponly", "samesite=lax", "path=/"} <= flags
            assert ("secure" in flags) == secure
            assert ("strict-transport-security" in answer.headers) == secure


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[::1", "localhost@evil.example"])
def test_unknown_hosts_are_refused(visitor, host):
    answer = visitor.get("/sign-in", headers={"host": host})
    assert (answer.status_code, "not known" in answer.text) == (400, True)
    assert HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8400", "127.0.0.1:1", "[::1]:8400"])
def test_known_hosts_are_served(visitor, host):
    assert visitor.get("/sign-in", headers={"host": host}).status_code == 200


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(total >> 16):
        yield b"x" * (1 << 16)


@pytest.mark.parametrize("path", ["/sign-in", "/api/sign-in", "/password"])
def test_oversize_bodies_are_refused(visitor, annotator, path):
    form = {"content-type": "application/json" if "api" in path else "application/x-www-form-urlencoded"}
    browser = annotator if path == "/password" else visitor
    for body in (b"x" * (MAX_BODY + 1), chunks(2 * MAX_BODY)):
        answer = browser.post(path, content=body, headers=form)
        assert answer.status_code == 413, answer.text[:200]
    wrong = browser.post(path, content=b"", headers={**form, "content-length": "-1"})
    assert wrong.status_code in (400, 413)


def test_admins_may_send_larger_files_and_not_endless_ones(admin, annotator):
    form = {"content-type": "multipart/form-data; boundary=x"}
    sent = []

    def endless() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        for chunk in chunks(2 * MAX_UPLOAD):
            sent.append(len(chunk))
            yield chunk

    assert annotator.post("/admin/projects", content=endless(), headers=form).status_code == 403
    answer = admin.post("/admin/projects", content=endless(), headers=form | token_of(admin))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "..\\app.py", "/etc/passwd", "%2fetc/passwd", "....//app.py"]
)
def test_static_files_are_those_of_the_folder(visitor, path):
    answer = visitor.get(f"/static/{path}")
    assert answer.status_code in (404, 405)
    assert "create_app" not in answer.text
    assert "root:" not in answer.text


@pytest.fixture
def files(tmp_path):
    """The folder whose files admins may use, beside one that they may not; links lead from one to the other."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        (folder / "model").mkdir(parents=True)
        (folder / "rows.jsonl").write_text('{"prompt": "p"}')
    (inside / "passwd").write_text("root:x:0:0")
    (inside / "link.jsonl").symlink_to(outside / "rows.jsonl")
    (inside / "linked").symlink_to(outside)
    return inside


OUTSIDE = [
    "../outside/rows.jsonl",
    "link.jsonl",
    "linked/rows.jsonl",
    "/etc/passwd",
    "passwd",
    "",
    ".",
    "a\0b",
    "~/x.csv",
]


def test_an_admins_paths_lead_to_the_allowed_folder_only(files):
    assert own_file(files, "rows.jsonl") == files / "rows.jsonl"
    assert own_file(files, str(files / "rows.jsonl")) == files / "rows.jsonl"
    said = set()
    links, elsewhere = ("link.jsonl", "linked/rows.jsonl"), str(files.parent / "outside" / "rows.jsonl")
    nothing = ("nothing.jsonl", "x" * 5000, "a\0b", "", ".")
    for path in ("../outside/rows.jsonl", "/etc/passwd", "passwd", "~/x.csv", elsewhere, *links, *nothing):
        with pytest.raises(InputError, match="no file under the server's folder") as error:
            own_file(files, path)
        said.add(str(error.value).partition("': ")[2])
    assert len(said) == 1  # nothing tells what is there and what is not
    assert checkpoint_at(files, "model") == str(files / "model")
    assert [checkpoint_at(files, name) for name in ("base", "org/some-model.v2")] == ["base", "org/some-model.v2"]
    for name in ("../outside/model", "linked/model", "/etc", "~", ".", "", "a/b/c", "http://evil.example/x", "a\0"):
        with pytest.raises(InputError, match="neither base, nor a folder"):
            checkpoint_at(files, name)


def test_an_annotator_cannot_make_the_server_read_a_file(store, files, person):
    app = create_app(store, files=files)
    outsider = Browser(app, base_url=BASE)
    person("ann")
    outsider.send_form("/sign-in", name="ann", password=PASSWORD)
    tried = outsider.send_form("/admin/projects", name="x", kind="pair", path="rows.jsonl")
    assert tried.status_code == 403
    assert store.projects() == []


def test_nothing_secret_is_logged(app, store, visitor, caplog):
    caplog.set_level(logging.DEBUG)
    accounts = Accounts(store)
    invite = accounts.invite()
    visitor.post(f"/invite/{invite}", data={"name": "ann", "password": PASSWORD})
    link = accounts.password_link(1, 1)
    visitor.post(f"/new-password/{link}", data={"password": PASSWORD})
    session = visitor.cookies["tether_session"]
    visitor.post("/sign-in", data={"name": "ann", "password": "not " + PASSWORD})
    visitor.get("/api/me", headers={"authorization": f"Bearer {accounts.token_for(1)}"})
    ours = [record.getMessage() for record in caplog.records if record.name != "httpx2"]  # that is the test's browser
    told = " ".join(ours) + json.dumps([event.about for event in store.audit()])
    assert not [secret for secret in (PASSWORD, invite, link, session) if secret in told]


def test_the_database_has_no_token_and_no_password(store, annotator, tmp_path):
    invite, session = Accounts(store).invite(), annotator.cookies["tether_session"]
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("preferences.sqlite*"))
    assert b"ann" in kept
    assert not [secret for secret in (PASSWORD, invite, session) if secret.encode() in kept]


def test_an_unknown_name_costs_as_much_work_as_a_wrong_password(store, annotator, monkeypatch):
    accounts, tried = Accounts(store), []
    fits = accounts._fits
    monkeypatch.setattr(accounts, "_fits", lambda hashed, given: tried.append(hashed) or fits(hashed, given))
    for name in ("ann", "nobody"):
        with pytest.raises(InputError, match="name or password is wrong"):
            accounts.sign_in(name, "a guess")
    assert len(tried) == 2
    assert len({hashed.rpartition("$")[0].rpartition("$")[0] for hashed in tried}) == 1  # of the same cost
