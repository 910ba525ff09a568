"""The whole of it in a real browser: two checkpoints sampled live, three annotators at their keyboards, a reward model.

Set TETHER_SCREENSHOTS to a folder to keep pictures of what was seen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import expect
from tests.feedback.web.conftest import PASSWORD
from transformers import AutoModelForCausalLM

from tether.feedback.records import Query
from tether.feedback.store import Store

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-c", "import sys; from tether.cli import main; sys.exit(main(sys.argv[1:]))"]
NUM_PAIRS, NUM_RANKINGS = 12, 6
TOPICS = """
    music|cooking|the weekend|a good book|football|your job|the weather|learning to swim|a new phone|old films
    travelling by train|gardening|a birthday|the sea|mountains|cats|dogs|breakfast
"""
TABS = 60
"""More than there are places to stop at on any page."""


def run(folder: Path, *args: str) -> None:
    done = subprocess.run([*COMMAND, *args], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the admin has: prompts in files, and two checkpoints that hold a conversation, one the worse for noise."""
    topics = [topic.strip() for line in TOPICS.split("\n") for topic in line.split("|") if topic.strip()]
    said = [[{"role": "user", "content": f"hi! what do you think of {topic}?"}] for topic in topics]
    rows = [json.dumps({"prompt": turns}) for turns in said]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows[:NUM_PAIRS]), encoding="utf-8")
    (tmp_path / "rankings.jsonl").write_text("\n".join(rows[NUM_PAIRS:]), encoding="utf-8")
    few = ["--set", "data.limit=640", "--set", "train.batch_size=32", "--set", "optim.lr=3e-4"]
    run(tmp_path, "sft", "--model", "base", "--data", "demo:chitchat-chat", "--out", "careful", *few)
    (careful,) = (tmp_path / "careful").rglob("model.safetensors")
    shutil.copytree(careful.parent, tmp_path / "hasty")
    model = AutoModelForCausalLM.from_pretrained(careful.parent)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(tmp_path / "hasty")
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """The real command; its address and the link for the first admin."""
    args = ["annotate", str(folder / "store.sqlite"), "--port", "0", "--files", str(folder)]
    process = subprocess.Popen([*COMMAND, *args], stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    yield re.findall(r"http://\S+(?=/$)", first.strip())[0], second.split(": ")[1].strip()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("TETHER_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until the focus is there, as somebody without a mouse does."""
    for _ in range(TABS):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab never came to {selector} at {page.url}")


def come_in(page: Any, link: str, name: str) -> None:
    """Make the account of an invitation, by keyboard: the first field has the focus."""
    page.goto(link)
    page.wait_for_selector("[name=name]:focus")  # which it gets with the first frame, after all is loaded
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:text('My projects')")


def make_project(page: Any, folder: Path, name: str, kind: str, shown: int) -> tuple[str, int]:
    """Fill the admin's form and wait for the samples: the project's address, and how many items it has."""
    page.goto("/admin/projects/new")
    page.fill("[name=name]", name)
    page.select_option("[name=kind]", kind)
    page.fill("[name=guideline]", "Prefer the reply that **answers the question** and could be said by a person.")
    page.set_input_files("[name=file]", folder / f"{name}.jsonl")
    page.fill("[name=checkpoints]", "careful\nhasty")
    page.fill("[name=per_checkpoint]", str(shown // 2))
    page.fill("[name=max_new_tokens]", "24")
    page.fill("[name=shown]", str(shown))
    page.click("button:text('Make the project')")
    page.wait_for_url(re.compile(r"/admin/projects/\d+"))
    project = re.findall(r"/admin/projects/\d+", page.url)[0]
    page.goto(f"{project}/prompts")
    page.wait_for_selector("#sampling[data-state=done]", timeout=180_000)
    page.goto(project)
    return str(project), int(page.inner_text("dl.tiles dd").split()[2])


def liking(text: str, annotator: int) -> tuple[float, list[str]]:
    """A taste all share, for many different words; each has a whim of their own on top."""
    words = re.findall(r"\w+", text.lower())  # whatever the page makes of its marks
    return len(set(words)) + 0.4 * len([w for w in words if len(w) % 3 == annotator]), words


def label(page: Any, annotator: int, num: int) -> None:
    """Answer `num` tasks of the page's project by keys alone."""
    for number in range(num):
        page.wait_for_selector("form.task h1:focus")
        before = page.locator("form.task h1 .count").inner_text()
        texts = {
            r.get_attribute("data-letter"): r.locator(".said").inner_text() for r in page.locator(".response").all()
        }
        order = sorted(texts, key=lambda letter: liking(texts[letter], annotator), reverse=True)
        for letter in order if len(order) > 2 else order[:1]:
            page.keyboard.press(letter.lower())
        if len(order) == 2:
            page.keyboard.press("2")
        if number == 1:
            picture(page, f"task-{len(order)}-{annotator}")
        page.keyboard.press("Enter")
        expect(page.locator("form.task h1 .count").filter(has_text=before)).to_have_count(0, timeout=60_000)
    page.wait_for_selector("text=Nothing to do for now")
    page.wait_for_selector("#saved[data-state=idle]", state="attached")


def test_from_two_checkpoints_to_a_reward_model(
    folder: Path, served: tuple[str, str], chromium: Any, request: pytest.FixtureRequest
) -> None:
    address, link = served
    opened: list[Any] = []
    request.addfinalizer(lambda: [context.close() for context in opened])

    def person(**about: Any) -> Any:
        opened.append(chromium.new_context(base_url=address, viewport={"width": 1280, "height": 900}, **about))
        page = opened[-1].new_page()
        page.set_default_timeout(60_000)
        return page

    admin = person()
    come_in(admin, link, "root")
    pairs, num_pairs = make_project(admin, folder, "pairs", "pair", 2)
    rankings, num_rankings = make_project(admin, folder, "rankings", "ranking", 4)
    projects = {pairs: num_pairs, rankings: num_rankings}
    # Prompts whose samples are the same word for word ask nothing.
    assert (NUM_PAIRS - num_pairs, NUM_RANKINGS - num_rankings) in [(0, 0), (0, 1), (1, 0)]
    for annotator in range(3):
        admin.goto(f"{pairs}/members")
        admin.click("button:text('Invite somebody new')")
        page = person(color_scheme="dark") if annotator == 2 else person()
        come_in(page, admin.input_value("[aria-label='Invitation link']"), f"annotator-{annotator}")
        admin.goto(f"{rankings}/members")
        admin.select_option("select[name=person]", label=f"annotator-{annotator} (human)")
        admin.click("button[value=add]")
        for project, num in projects.items():
            page.goto("/")
            tab_to(page, f"a[href='{project.removeprefix('/admin')}/task']")
            page.keyboard.press("Enter")
            page.wait_for_selector("h1:text('Guideline')")
            tab_to(page, "main button.primary")
            page.keyboard.press("Enter")
            label(page, annotator, num)
    for project, num in projects.items():
        admin.goto(project)
        assert admin.inner_text("dl.tiles dd").split() == [str(num), "of", str(num)]
        agreement = float(admin.inner_text("dt:text('Two annotators say the same') + dd").split()[0])
        assert agreement > 60
    picture(admin, "dashboard")
    admin.set_viewport_size({"width": 360, "height": 740})
    picture(admin, "dashboard-mobile")
    files = [download(admin, project, folder) for project in projects]
    check_votes(folder, 3 * (num_pairs + num_rankings))

    data = folder / "all.jsonl"
    data.write_text("".join(file.read_text(encoding="utf-8") for file in files), encoding="utf-8")
    run(folder, "reward", "--model", "careful", "--data", str(data), "--out", "reward")
    assert (folder / "reward").is_dir()


def download(page: Any, project: str, folder: Path) -> Path:
    """The export of an admin's click."""
    page.goto(f"{project}/export")
    with page.expect_download() as waiting:
        page.click("button:text('Download')")
    file = folder / waiting.value.suggested_filename
    waiting.value.save_as(file)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows
    assert {name for row in rows for name in row["checkpoints"].values()} == {"careful", "hasty"}
    assert not any(f"annotator-{n}" in json.dumps(row) for row in rows for n in range(3))
    return file


def check_votes(folder: Path, num: int) -> None:
    """What is stored is what the keys said, whatever side it was shown on."""
    with Store.open(folder / "store.sqlite") as store:
        names = {user.id: user.name for user in store.users()}
        judged = store.judgements(Query())
        past = {p.judgement.id: p for u in names for project in (2, 3) for p in store.mine(u, project, limit=100)}
    assert len(judged) == num
    for judgement in judged:
        annotator = int(names[judgement.user].rpartition("-")[2])
        texts = {r.id: r.text for r in past[judgement.id].responses}
        assert judgement.ranking is not None
        order = sorted(judgement.ranking, key=lambda r: judgement.ranking[r])
        assert order == sorted(texts, key=lambda r: liking(texts[r], annotator), reverse=True)
