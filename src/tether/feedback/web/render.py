"""Text of models, annotators and files as HTML that runs nothing and loads nothing.

Markdown is parsed without its raw HTML, formulas become MathML, and what comes out passes an allow-list once more: a
mistake of one is caught by the other, and a mistake of both by the content security policy. Links lead away from the
app only; images are never loaded, their address is written out instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from html import escape, unescape
from typing import Any
from xml.etree.ElementTree import Element

import nh3
from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup
from mdit_py_plugins.dollarmath import dollarmath_plugin

LONGEST = 50_000
"""Characters of a text that is still parsed; a longer one is shown as it is."""
_LONGEST_FORMULA = 2000
_TOP_HEADING = 3  # the page has the task as h1 and each response as h2

_MATH_TAGS = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mstyle", "mpadded", "mphantom", "merror"),
    *("mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover"),
    *("mtable", "mtr", "mtd"),
}
_MATH_ATTRIBUTES = {
    *("display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form", "separator", "symmetric"),
    *("largeop", "movablelimits", "accent", "accentunder", "linethickness", "minsize", "maxsize"),
    *("width", "height", "depth", "lspace", "rspace", "voffset", "columnalign", "rowspacing", "columnspacing"),
}
_TEXT_TAGS = {
    *("p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s", "a", "span", "div", "ul", "ol", "li"),
    *("h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_CLASSES = {
    "div": {"code", "scroll"},
    "span": {"language", "image", "formula", "broken"},
    "th": {"left", "right", "center"},
    "td": {"left", "right", "center"},
}

_Rule = Callable[[RendererHTML, Sequence[Token], int, OptionsDict, EnvType], str]


def rendered(text: str, how: str) -> Markup:
    """Safe HTML of `text`: `how` is "markdown" or "plain"."""
    return as_markdown(text) if how == "markdown" and len(text) <= LONGEST else as_plain(text)


def as_plain(text: str) -> Markup:
    """The text letter by letter; white space is kept by the style of `plain`."""
    return Markup('<div class="plain">{}</div>').format(text)


@lru_cache(maxsize=512)
def as_markdown(text: str) -> Markup:
    """CommonMark with tables, strike-through and formulas in $…$, $$…$$, \\(…\\) and \\[…\\]."""
    try:
        html = _parser().render(text)
    except RecursionError:
        return as_plain(text)
    return Markup(_cleaner().clean(html))


def formula(tex: str, display: bool = False) -> str:
    """MathML of a formula, or its source as code when it is none.

    >>> formula("x^2")
    '<math display="inline"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>'
    """
    try:
        if len(tex) > _LONGEST_FORMULA:
            raise ValueError("too long")
        return _written(convert_to_element(tex, display="block" if display else "inline"))
    except Exception:  # whatever the converter trips over: it raises its own kinds, IndexError, KeyError …
        return f'<span class="broken"><code>{escape(tex)}</code></span>'


def _written(node: Element) -> str:
    """A MathML element with what is allowed in it; of any other element only what is inside."""
    inside = escape(unescape(node.text or "")) + "".join(_written(child) for child in node)
    if node.tag not in _MATH_TAGS:
        return inside
    about = "".join(f' {k}="{escape(str(v))}"' for k, v in node.attrib.items() if k in _MATH_ATTRIBUTES)
    return f"<{node.tag}{about}>{inside}</{node.tag}>"


@cache
def _parser() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    md.use(
        dollarmath_plugin,
        **dict.fromkeys(("allow_labels", "allow_space", "allow_digits", "allow_blank_lines"), False),
        double_inline=True,
    )
    md.inline.ruler.before("escape", "bracket_formula", _find_formula)
    md.block.ruler.before("fence", "bracket_formula", _find_formula_block, {"alt": ["paragraph", "blockquote", "list"]})
    md.core.ruler.push("heading_levels", _level_headings)
    md.core.ruler.push("cell_alignment", _align_cells)
    rules: dict[str, _Rule] = {
        "fence": _code,
        "code_block": _code,
        "image": _image,
        "math_inline": _inline_formula,
        "math_inline_double": _double_formula,
        "math_block": _block_formula,
        "table_open": lambda *_: '<div class="scroll" tabindex="0"><table>',
        "table_close": lambda *_: "</table></div>\n",
    }
    for name, rule in rules.items():
        md.add_render_rule(name, rule)
    return md


@cache
def _cleaner() -> nh3.Cleaner:
    attributes: dict[str, set[str]] = {tag: set(_MATH_ATTRIBUTES) for tag in _MATH_TAGS}
    return nh3.Cleaner(
        tags=_TEXT_TAGS | _MATH_TAGS,
        clean_content_tags={"script", "style"},
        attributes=attributes | {"a": {"href", "title"}, "ol": {"start"}},
        tag_attribute_values={"div": {"tabindex": {"0"}}, "pre": {"tabindex": {"0"}}},
        set_tag_attribute_values={"a": {"target": "_blank"}},
        allowed_classes=_CLASSES,
        link_rel="noopener noreferrer nofollow",
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
    )


def _find_formula(state: StateInline, silent: bool) -> bool:
    """Inline rule: \\(…\\), and \\[…\\] within a line."""
    ends = {"\\(": "\\)", "\\[": "\\]"}
    opening = state.src[state.pos : state.pos + 2]
    if opening not in ends:
        return False
    # No further than a formula may be long: looking to the end from every "\\(" would take quadratic time.
    end = state.src.find(ends[opening], state.pos + 2, state.pos + 2 + _LONGEST_FORMULA)
    if end < 0:
        return False
    if not silent:
        kind = "math_inline" if opening == "\\(" else "math_inline_double"
        state.push(kind, "", 0).content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _find_formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Block rule: lines from one that begins with \\[ to one that ends with \\], none of them blank."""
    lines: list[str] = []
    if state.is_code_block(start):
        return False
    for line in range(start, min(end, start + _LONGEST_FORMULA // 20)):
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip()
        if not text or state.sCount[line] < state.blkIndent or (line == start and not text.startswith("\\[")):
            return False
        lines.append(text)
        if "\\]" in text:
            break
    else:
        return False
    if "\\]" in lines[-1][:-2]:  # \\[…\\] and more on the same line: a paragraph
        return False
    if not silent:
        token = state.push("math_block", "", 0)
        token.content, token.map = "\n".join(lines)[2:-2], [start, start + len(lines)]
        state.line = start + len(lines)
    return True


def _level_headings(state: StateCore) -> None:
    """Headings below those of the page, and none that skips a level: their order is read out as an outline."""
    above = _TOP_HEADING - 1
    for token in state.tokens:
        if token.type == "heading_open":
            above = min(int(token.tag[1]) + _TOP_HEADING - 1, above + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{above}"


def _align_cells(state: StateCore) -> None:
    """Alignment as a class: inline styles are forbidden."""
    for token in state.tokens:
        if token.type in ("th_open", "td_open") and (style := str(token.attrs.pop("style", ""))):
            token.attrs["class"] = style.removeprefix("text-align:")


def _code(self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
    language = tokens[idx].info.split()[:1]
    label = f'<span class="language">{escape(language[0][:30])}</span>' if language else ""
    return f'<div class="code">{label}<pre tabindex="0"><code>{escape(tokens[idx].content)}</code></pre></div>\n'


def _image(self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
    alt = self.renderInlineAsText(tokens[idx].children or [], options, env)
    return f'<span class="image">Image: {escape(alt)} ({escape(str(tokens[idx].attrs.get("src", "")))})</span>'


def _inline_formula(self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
    return f'<span class="formula">{formula(tokens[idx].content.strip())}</span>'


def _double_formula(self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
    return f'<span class="formula">{formula(tokens[idx].content.strip(), display=True)}</span>'


def _block_formula(self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
    return f'<div class="scroll" tabindex="0">{formula(tokens[idx].content.strip(), display=True)}</div>\n'
