"""Text as HTML: what Markdown and formulas become, and what never comes through."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.feedback.web.render import LONGEST, as_markdown, as_plain, formula, rendered

TAGS = {
    *("p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s", "a", "span", "div", "ul", "ol", "li"),
    *("h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mstyle", "mpadded", "mphantom", "merror", "mfrac", "msqrt"),
    *("mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd"),
}


class Seen(HTMLParser):
    """The tags and attributes of a page, read by another parser than the one that made it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** *c* ~~d~~", "<p>a <strong>b</strong> <em>c</em> <s>d</s></p>"),
        ("# One\n### Two\n# Three", "<h3>One</h3>\n<h4>Two</h4>\n<h3>Three</h3>"),
        ("<b onclick=x>b</b>", "<p>&lt;b onclick=x&gt;b&lt;/b&gt;</p>"),
        ("![a *cat*](https://e.org/c.png)", '<p><span class="image">Image: a cat (https://e.org/c.png)</span></p>'),
        (
            "[x](https://e.org)",
            '<p><a href="https://e.org" target="_blank" rel="noopener noreferrer nofollow">x</a></p>',
        ),
        ("costs $5 and $10", "<p>costs $5 and $10</p>"),
        (
            "$x$ \\(y\\)",
            '<p><span class="formula"><math display="inline"><mrow><mi>x</mi></mrow></math></span> '
            '<span class="formula"><math display="inline"><mrow><mi>y</mi></mrow></math></span></p>',
        ),
    ],
)
def test_markdown_becomes_plain_html(text: str, html: str) -> None:
    assert as_markdown(text).strip() == html


def test_code_keeps_every_letter_and_names_its_language() -> None:
    html = as_markdown("```python title\nif a < b:\n    print('$x$')\n```")
    assert '<span class="language">python</span>' in html
    assert "<code>if a &lt; b:\n    print('$x$')\n</code>" in html


def test_tables_align_by_class() -> None:
    html = as_markdown("|a|b|\n|:-|-:|\n|1|2|")
    assert '<th class="left">a</th>' in html
    assert '<td class="right">2</td>' in html
    assert "style" not in html


@pytest.mark.parametrize("tex", ["$$\nx^2\n$$", "\\[\nx\n+ y\n\\]", "so \\[x^2\\] is", "so $$x^2$$ is"])
def test_displayed_formulas_in_every_delimiter(tex: str) -> None:
    assert '<math display="block">' in as_markdown(tex)


def test_a_formula_that_is_none_is_shown_as_written() -> None:
    assert formula("\\frac") == '<span class="broken"><code>\\frac</code></span>'
    assert formula("x" * 3000).startswith('<span class="broken">')
    assert formula("\\text{a<b}") == '<math display="inline"><mrow><mtext>a&lt;b</mtext></mrow></math>'
    assert "href" not in formula("\\href{javascript:alert(1)}{x}")


def test_plain_text_and_very_long_text_come_letter_by_letter() -> None:
    assert rendered("*a* <b>", "plain") == '<div class="plain">*a* &lt;b&gt;</div>'
    assert rendered("*a* " * LONGEST, "markdown").startswith('<div class="plain">*a*')
    assert as_plain("{{ 7 * 7 }}") == '<div class="plain">{{ 7 * 7 }}</div>'


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "file:///etc/passwd",
        "/admin",
        "//e.org",
    ],
)
def test_links_lead_away_by_http_or_mail_only(address: str) -> None:
    hrefs = [about.get("href") for _, about in Seen(as_markdown(f"[a]({address}) <{address}>")).tags]
    assert not any(hrefs)


_MARKS = "<>\"'&`*[]()!$}|-# \n\r\x00\u202eaé"
_PHRASES = ("```", "](", "$$", "\\(", "\\)", "\\[", "\\]", "\\frac{", "\\href{", "\\text{", "|-|", "\n\n", "    ")
_ATTACKS = ("javascript:", "onerror=", "<script>", "<svg/onload=x>", "</math>", "<!--", "]]>", "&#x3c;")
PIECES = st.sampled_from([*_MARKS, *_PHRASES, *_ATTACKS])


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_nothing_but_what_is_allowed_comes_out(text: str) -> None:
    for tag, about in Seen(as_markdown(text)).tags:
        assert tag in TAGS
        assert not any(name.startswith("on") or name in ("style", "id", "src", "name") for name in about)
        assert re.match("https?://|mailto:|$", about.get("href") or "")


@pytest.mark.parametrize(
    "piece",
    ["[", "[a](", "*a ", ">", "`", "$a ", "<", "- ", "\\(", "\\[", "**a", "_a__b", "$x^2$ ", "|a", "$$\n", "![", "&"],
)
def test_hostile_repetition_takes_no_long_time(piece: str) -> None:
    text = (piece * LONGEST)[:LONGEST]

    def took() -> float:
        began = time.thread_time()
        as_markdown.__wrapped__(text)
        return time.thread_time() - began

    assert any(took() < 5 for _ in range(3))  # a neighbour on the same core stretches even processor time
