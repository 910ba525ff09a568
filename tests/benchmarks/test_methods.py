"""The method table is made from what the quickstart says and what stages did, in one run that can be repeated."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tether.config import parse_recipe
from tether.pipeline import sections

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "methods.py"
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"


@pytest.fixture(scope="module")
def methods() -> ModuleType:
    pytest.importorskip("chitchat_dataset")
    spec = importlib.util.spec_from_file_location("methods", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as when it is run
        spec.loader.exec_module(module)
    return module


def per_iteration(section: Any, methods: ModuleType) -> int:
    """Responses an iteration samples and learns from."""
    k = getattr(section, "num_responses", 0)
    sampled = methods.SAMPLED.get(section.algorithm, k) + (getattr(section, "baseline", "") == "greedy")
    learnt: int = methods.LEARNT.get(section.algorithm, k)
    return int(section.train.batch_size * (sampled + section.train.mini_epochs * learnt))


def test_every_method_is_a_recipe_that_checks_and_spends_the_same(methods: ModuleType) -> None:
    recipe, trials = methods.plan([], 2, 1.0, "test", 400)
    checked = parse_recipe(recipe, sections(), where="methods")
    quickstart = tomllib.loads(methods.QUICKSTART.read_text())["stage"]
    assert recipe["stage"][:4] == quickstart[:4]
    assert {trial.seed for trial in trials} == {0, 1}
    for trial in trials:
        spent = 0.0
        for stage in map(checked.stage, trial.stages):
            assert stage.seed == trial.seed
            if stage.algorithm == "best_of_n":
                prompts = stage.data.limit
                spent += prompts * stage.num_responses
            elif stage.train.steps is None:
                spent += prompts * stage.train.epochs
            else:
                spent += stage.train.steps * per_iteration(stage, methods)
        assert spent == pytest.approx(3840, rel=1e-9), trial
        evaluation = checked.stage(trial.evaluation)
        assert (evaluation.model, evaluation.baseline) == (f"stage:{trial.stages[-1]}", "stage:sft")
        assert (evaluation.data.split, evaluation.data.limit) == ("test", 400)


def test_a_shorter_budget_shortens_all_alike(methods: ModuleType) -> None:
    recipe, _ = methods.plan(["dpo", "best_of_n"], 1, 0.25, "test", 400)
    made = {stage["name"]: stage for stage in recipe["stage"]}
    assert made["dpo-0"]["train"]["steps"] == 15
    assert made["best_of_n-0-1"]["data"]["limit"] == 96
    assert made["best_of_n-0"]["data"]["path"] == "stage:best_of_n-0-1"


def test_an_unknown_method_is_named(methods: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"^no method 'dop' in methods\.toml; valid: ppo, grpo, "):
        methods.plan(["dop"], 1, 1.0, "test", 400)


def test_only_what_is_between_the_marks_is_written(methods: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        methods.put(page, "methods", "new\n")
        assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(SystemExit, match=r"page\.md has no lines <!-- methods: begin -->"):
        methods.put(page, "methods", "new\n")


@pytest.mark.parametrize(
    ("name", "page"),
    [("methods", "docs/methods.md"), ("ensembles", "benchmarks/RESULTS.md"), ("active", "benchmarks/RESULTS.md")],
)
def test_the_page_has_the_marks(name: str, page: str) -> None:
    text = (ROOT / page).read_text()
    assert text.count(f"<!-- {name}: begin -->") == text.count(f"<!-- {name}: end -->") == 1
    assert f'"{name}", text)' in (ROOT / "benchmarks" / f"{name}.py").read_text()


@pytest.mark.slow
def test_a_table_comes_out(
    methods: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiny, but the real thing; the second time nothing is run and the table is the same."""
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    short = ("sft.data.limit=64", "sft.eval_data.limit=16", "pairs.data.limit=48", "reward.train.epochs=1")
    command = ["methods.py", "--methods", "ppo", "dpo", "best_of_n", "--seeds", "1", "--steps", "1", "--limit", "8"]
    command += ["--out", str(tmp_path / "run"), "--write", str(page), "--set", *short]
    monkeypatch.setattr(sys, "argv", command)
    outputs = []
    for _ in range(2):
        methods.main()
        outputs.append(capsys.readouterr().out)
        assert page.read_text().removeprefix(f"{BEGIN}\n").removesuffix(f"{END}\n") in outputs[-1]
    assert outputs[1].count("done before") == 4 + 4 + 3
    tables = [[line for line in out.splitlines() if line[:1] == "|"] for out in outputs]
    assert tables[0] == tables[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables[0]]
    assert [row[0] for row in rows] == ["method", "---", "SFT", "`ppo`", "`dpo`", "`best_of_n`"]
    assert {len(row) for row in rows} == {9}
    for row in rows[3:]:
        low, high = (float(bound) for bound in row[2].split(" to "))
        assert 0 <= low <= float(row[1]) <= high <= 1
        assert row[7].endswith("k")
