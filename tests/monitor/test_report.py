"""The report: hostile text stays text, the data is deterministic, and a browser with no network shows it all."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from tether.monitor.report import RunReport, StageReport, render, write_report


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_hostile_text_stays_text(run):
    page = render(run)
    found = Tags(page)
    assert not found.tags & {"script", "img", "iframe", "object", "embed", "form", "a:href"}
    assert not [name for name in found.attributes if name.startswith("on")]
    assert page.count("&lt;script&gt;alert(") >= 5  # prompt, answer, alarm, data report, recipe
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert page.count("Content-Security-Policy") == 1
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,)""", page)


def test_same_run_same_bytes_but_for_the_time(run, tmp_path):
    slower = dataclasses.replace(run, stages=[dataclasses.replace(s, seconds=9.0) for s in run.stages])
    for name, one in (("a", run), ("b", run), ("slower", slower)):
        assert write_report(one, tmp_path / name / "report.html").is_file()
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()
    data = {name: json.loads((tmp_path / name / "report.json").read_text()) for name in ("a", "slower")}
    assert data["a"].pop("timing")["sft"] == 74.2
    assert data["slower"].pop("timing")["sft"] == 9.0
    assert data["a"] == data["slower"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["report.html", "report.json"]


def test_the_data_says_what_the_page_says(run, tmp_path):
    data = json.loads((write_report(run, tmp_path / "report.html").with_name("report.json")).read_text())
    assert data["title"] == "quickstart"
    assert [stage["name"] for stage in data["stages"]] == ["sft", "pairs", "votes", "rm", "ppo", "final"]
    assert data["lineage"][0] == {"source": "base", "target": "sft", "label": "model", "hash": "91ab3c55d0e77f12"}
    assert data["findings"][0]["level"] == "good"
    assert any("alike" in finding["text"] for finding in data["findings"])
    assert any("being gamed" in finding["text"] for finding in data["findings"])
    assert any(event.get("optim/grad_norm/policy") == "nan" for event in data["stages"][4]["events"])


def test_a_run_that_has_hardly_begun_has_a_report(tmp_path):
    empty = RunReport("new", [StageReport("sft", "sft", "waiting")])
    page = render(empty)
    for absent in ("What was gained", "tether was pulled", "before and after", "Where the time went", "Recipe"):
        assert absent not in page
    assert "waiting" in page
    render(RunReport("none", []))
    one = RunReport("one", [StageReport("sft", "sft", "cut", events=[{"step": 1, "kind": "train", "sft/loss": 2.0}])])
    assert render(one).count('class="chart"') == 1


def test_two_answers_and_one(run):
    page = render(RunReport("t", [], samples=[{"prompt": "p", "answers": {"a": "i like cats", "b": "i love cats"}}]))
    assert "<del>like</del>" in page
    assert "<ins>love</ins>" in page
    page = render(RunReport("t", [], samples=[{"prompt": "p", "answers": {"a": ""}, "scores": {"a": 0.5}}]))
    assert "(nothing)" in page
    assert "score <b>0.5</b>" in page


def test_every_metric_of_every_stage_has_its_curve(run):
    page = render(run)
    logged = {
        name for stage in run.stages for event in stage.events for name in event if "/" in name and "gold_" not in name
    }
    companions = {"eval/loss", "eval/accuracy", "eval/proxy", "eval/kl", "eval/length"}
    assert all(f"<summary><code>{name}</code></summary>" in page for name in logged - companions)
    assert "not in Tether&#39;s table" in page or "not in Tether's table" in page  # mine/own_number


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_without_network_shows_it_all(chromium, run, tmp_path, scheme):
    address = write_report(run, tmp_path / "report.html").as_uri()
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    asked, said = [], []
    context.route(
        "**/*",
        lambda route: (
            route.continue_() if route.request.url == address else (asked.append(route.request.url), route.abort())
        ),
    )
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    for part in (
        "#result .findings li.good",
        "#tether svg",
        "#samples .answer",
        "#stages svg",
        "#lineage svg",
        "#timing i",
    ):
        assert page.locator(part).first.is_visible(), part
    charts = page.locator("#stages .multiples > figure svg:visible")
    assert charts.count() >= 9
    assert all(charts.nth(i).bounding_box()["height"] > 100 for i in range(charts.count()))
    assert page.locator("#samples ins").first.is_visible()
    reading = page.locator("#stages .read").nth(20)
    assert reading.locator("text").evaluate("e => getComputedStyle(e).opacity") == "0"
    reading.locator("rect").hover()
    assert reading.locator("text").evaluate("e => getComputedStyle(e).opacity") == "1"
    for width in (320, 360, 768, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        for state in ("as it is", "everything open"):
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, state)
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    assert (asked, said) == ([], [])
    context.close()


def test_several_evaluations_stand_side_by_side():
    rounds = {
        "evaluate": {"win_rate": {"value": 0.6, "low": 0.5, "high": 0.7}, "kl": 2.0, "only_here": 1.0},
        "evaluate-r2": {"win_rate": {"value": 0.7, "low": 0.6, "high": 0.8}, "kl": 3.5},
    }
    page = render(RunReport("t", [], evaluation=rounds["evaluate-r2"], evaluations=rounds))
    table = page.partition("<table>")[2].partition("</table>")[0]
    cells = re.findall(r"<t[hd](?: [^>]*)?>([^<]*)<", table)
    percent = "\N{NO-BREAK SPACE}%"
    assert cells == [
        *("", "evaluate", "evaluate-r2"),
        *("Win rate", f"60{percent} (50–70{percent})", f"70{percent} (60–80{percent})"),
        *("Held-out KL", "2", "3.5"),
    ]
    assert "<table>" not in render(RunReport("t", [], evaluation=rounds["evaluate"]))
