"""Whatever is sent to whichever route: the server never breaks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.feedback.web.conftest import BASE, Browser

from tether.feedback.accounts import Accounts
from tether.feedback.records import NewItem, NewPrompt, NewResponse

requests = pytest.importorskip("requests")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

pytestmark = pytest.mark.slow
TURNS = count()
THERE = {"project": 2, "item": 1, "person": 1, "number": 1}
"""What the numbers in a path may name here."""


def sent(client: Browser, case: Any, token: str) -> int:
    """The status of a generated request, sent byte by byte as schemathesis means it, in the name of a user.

    Two of three are about what there is: a number drawn at random hardly ever is.
    """
    if next(TURNS) % 3:
        case.path_parameters = {name: THERE.get(name, value) for name, value in (case.path_parameters or {}).items()}
    kwargs = case.as_transport_kwargs(base_url=BASE)
    kwargs["headers"] = {k: v for k, v in kwargs["headers"].items() if k.lower() not in ("authorization", "host")}
    request = requests.Request(**kwargs).prepare()
    headers = {**request.headers, "authorization": f"Bearer {token}"}
    body = request.body.encode() if isinstance(request.body, str) else request.body
    return int(client.request(request.method, request.url, content=body, headers=headers).status_code)


def check(app: Any, operation: Any, token: str) -> set[int]:
    """The statuses of many requests to one route; AssertionError for one of 500 or more."""
    client, statuses = Browser(app, base_url=BASE, raise_server_exceptions=False, follow_redirects=False), set()

    @settings(max_examples=15, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def fuzz(case: Any) -> None:
        status = sent(client, case, token)
        assert status < 500, f"{case.method} {case.path}"
        statuses.add(status)

    fuzz()
    return statuses


@pytest.mark.parametrize("admin", [True, False])
def test_no_request_breaks_the_server(app, store, person: Callable[..., Browser], admin):
    project = store.add_project("animals")
    assert project == THERE["project"]
    guideline = store.add_guideline("Be kind.", project)
    browser = person("somebody", admin=admin, project=project)
    store.acknowledge(browser.user, project, guideline)
    asked = store.add_prompts(NewPrompt(f"prompt {i}") for i in range(40))
    said = store.add_responses(NewResponse(p, text) for p in asked for text in ("aa", "bb"))
    store.add_items(NewItem(said[at : at + 2], project=project) for at in range(0, 80, 2))
    statuses: set[int] = set()
    for found in schemathesis.openapi.from_dict(app.openapi()).get_all_operations():
        token = Accounts(store).token_for(browser.user)  # its own: one of the routes ends the session
        statuses |= check(app, found.ok(), token)
    assert statuses >= ({200, 303, 404, 422} if admin else {200, 303, 403, 404, 422})
    assert store.progress(project).items == 40
