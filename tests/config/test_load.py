"""Recipes: what is read, and what each mistake says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from tether.config import (
    LoopConfig,
    Section,
    StageSection,
    TrainSection,
    load_recipe,
    parse_recipe,
    parse_stage,
    shipped_recipes,
)
from tether.errors import InputError


class Kl(Section):
    beta: float = Field(default=0.1, ge=0)
    kind: Literal["k1", "k2", "k3"] = "k1"


class Learn(TrainSection):
    """A stage that trains."""


class Ppo(TrainSection):
    """A stage with tables, lists and unions of its own."""

    reward: str
    kl: Kl | None = None
    weights: tuple[float, ...] = ()
    scorers: list[Kl] = []
    size: int | Literal["auto"] = "auto"
    clip: float = Field(default=0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _together(self) -> Ppo:
        if self.kl is not None and self.weights:
            raise ValueError("`kl` and `weights` cannot be given together; leave one out")
        return self


SECTIONS: dict[str, type[StageSection]] = {"learn": Learn, "ppo": Ppo}

GOOD = """
[run]
name = "trial"
seed = 7

[[stage]]
name = "sft"
algorithm = "learn"
model = "base"
data.path = "a.jsonl"
optim.lr = 1e-3

[[stage]]
name = "ppo"
algorithm = "ppo"
model = "stage:sft"
reward = "length"
weights = [1, 0.5]
[stage.data]
path = "b.jsonl"
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaint(tmp_path: Path, text: str | bytes, *overrides: str) -> list[str]:
    """The lines of the error, without the path in front."""
    path = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        load_recipe(path, SECTIONS, overrides)
    first, *rest = str(error.value).split("\n  ")
    assert first.startswith(f"{path}: ")
    return rest or [first.removeprefix(f"{path}: ")]


def test_good_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), SECTIONS)
    sft, ppo = recipe.stages
    assert (recipe.run.name, recipe.run.seed, recipe.run.folder) == ("trial", 7, Path("runs/trial"))
    assert type(sft) is Learn
    assert type(ppo) is Ppo
    assert sft.optim.lr == 1e-3
    assert ppo.weights == (1.0, 0.5)
    assert recipe.stage("ppo") is ppo
    assert recipe.loop == LoopConfig(rounds=1)
    with pytest.raises(KeyError):
        recipe.stage("dpo")


def test_out_folder(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD), SECTIONS, ["run.out=/elsewhere/x"]).run.folder == Path("/elsewhere/x")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "trial"', "", "[run], field name: missing; expected a string matching ^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        ("seed = 7", "seed = -1", "[run], field seed: got -1, expected a whole number >= 0 and < 4294967296"),
        ("seed = 7", "seed = 7.5", "[run], field seed: got 7.5, expected a whole number >= 0 and < 4294967296"),
        ("seed = 7", "seeed = 7", "[run], field seeed: unknown; did you mean 'seed'?"),
        ("optim.lr = 1e-3", 'optim.lr = "abc"', "stage 'sft', field optim.lr: got 'abc', expected a number > 0"),
        ("optim.lr = 1e-3", "optim.lr = true", "stage 'sft', field optim.lr: got true, expected a number > 0"),
        ("optim.lr = 1e-3", "optim.lr = 0", "stage 'sft', field optim.lr: got 0, expected a number > 0"),
        ("optim.lr = 1e-3", "optim.lrr = 1", "stage 'sft', field optim.lrr: unknown; did you mean 'lr'?"),
        ("optim.lr = 1e-3", "optim = 3", "stage 'sft', field optim: got 3, expected a table"),
        ("optim.lr = 1e-3", "train.steps = 0", "stage 'sft', field train.steps: got 0, expected a whole number >= 1"),
        (
            "optim.lr = 1e-3",
            'train.layout = "ragged"',
            "stage 'sft', field train.layout: got 'ragged', expected 'auto', 'rows', 'tree' or 'varlen'",
        ),
        (
            "optim.lr = 1e-3",
            "optim.betas = [0.9]",
            "stage 'sft', field optim.betas.1: missing; expected a number",
        ),
        (
            "optim.lr = 1e-3",
            "data.rename = {a = 1}",
            "stage 'sft', field data.rename.a: got 1, expected a string",
        ),
        ('data.path = "a.jsonl"', "", "stage 'sft', field data: missing; expected a table"),
        (
            'algorithm = "ppo"',
            'algorithm = "poo"',
            "stage 'ppo', field algorithm: got 'poo'; did you mean 'ppo'?",
        ),
        ('algorithm = "ppo"', "", "stage 'ppo', field algorithm: missing; valid: learn, ppo"),
        (
            'name = "ppo"',
            "",
            "stage 2, field name: missing; expected a string matching ^[a-z0-9][a-z0-9_-]*$",
        ),
        ('name = "ppo"', 'name = "sft"', "stage 'sft': a stage before it has the same name; names are given once"),
        (
            "weights = [1, 0.5]",
            'weights = [1, "x"]',
            "stage 'ppo', field weights.1: got 'x', expected a number",
        ),
        (
            "weights = [1, 0.5]",
            'kl.kind = "k4"',
            "stage 'ppo', field kl.kind: got 'k4', expected 'k1', 'k2' or 'k3'",
        ),
        (
            "weights = [1, 0.5]",
            "scorers = [{beta = 1}, {beta = -1}]",
            "stage 'ppo', field scorers.1.beta: got -1, expected a number >= 0",
        ),
        (
            "weights = [1, 0.5]",
            "scorers = [{gamma = 1}]",
            "stage 'ppo', field scorers.0.gamma: unknown; valid: beta, kind",
        ),
        (
            "weights = [1, 0.5]",
            "size = 1.5",
            "stage 'ppo', field size: got 1.5, expected a whole number or 'auto'",
        ),
        (
            "weights = [1, 0.5]",
            "weights = [1]\nkl.beta = 1",
            "stage 'ppo': `kl` and `weights` cannot be given together; leave one out",
        ),
        (
            "weights = [1, 0.5]",
            "clip = 1.0",
            "stage 'ppo', field clip: got 1.0, expected a number > 0 and < 1",
        ),
        (
            '"stage:sft"',
            '"stage:ppo"',
            "stage 'ppo', field model: refers to itself; expected an earlier stage",
        ),
        (
            '"stage:sft"',
            '"stage:stf"',
            "stage 'ppo', field model: there is no stage 'stf'; did you mean 'sft'?",
        ),
        (
            '"a.jsonl"',
            '"stage:ppo"',
            "stage 'sft', field data.path: stage 'ppo' comes later; move it before 'sft'",
        ),
        (
            '"a.jsonl"',
            '"stage:x/pairs"',
            "stage 'sft', field data.path: there is no stage 'x'; no stage comes before this one",
        ),
        (
            "seed = 7",
            "[loop]\nrounds = 2",
            "[loop]: rounds > 1 needs `first`, the stage a round begins with, and `carry`, what it starts from",
        ),
    ],
)
def test_one_mistake(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert GOOD.count(old) == 1
    assert complaint(tmp_path, GOOD.replace(old, new)) == [says]


def test_every_mistake_at_once(tmp_path: Path) -> None:
    bad = GOOD.replace("seed = 7", "seed = 'x'").replace("1e-3", "-1").replace('"length"', "5").replace("7", "8")
    assert complaint(tmp_path, bad) == [
        "[run], field seed: got 'x', expected a whole number >= 0 and < 4294967296",
        "stage 'sft', field optim.lr: got -1, expected a number > 0",
        "stage 'ppo', field reward: got 5, expected a string",
    ]


def test_unknown_table(tmp_path: Path) -> None:
    assert complaint(tmp_path, GOOD + "[lop]\nrounds = 1") == ["unknown [lop]; did you mean 'loop'?"]


def test_no_stage(tmp_path: Path) -> None:
    assert complaint(tmp_path, '[run]\nname = "x"') == ["no [[stage]]; a recipe has at least one"]
    assert complaint(tmp_path, 'stage = 3\n[run]\nname = "x"') == ["no [[stage]]; a recipe has at least one"]
    assert complaint(tmp_path, 'stage = [3]\n[run]\nname = "x"') == ["stage 1: got 3, expected a table"]


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    assert complaint(tmp_path, "[run]\nname = \n") == ["not valid TOML: Invalid value (at line 2, column 8)"]
    assert complaint(tmp_path, b"name = '\xff'") == ["not UTF-8 text (byte 8); save it as UTF-8"]
    with pytest.raises(InputError, match=r"is a folder, expected a recipe \(a TOML file\)"):
        load_recipe(tmp_path, SECTIONS)
    with pytest.raises(InputError, match=r"quickstrat: no such file, and no shipped recipe of this name"):
        load_recipe("quickstrat", SECTIONS)


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe = load_recipe(path, SECTIONS, ["run.seed=1", "sft.optim.lr=3e-5", "ppo.model=base", "ppo.weights=[2]"])
    sft, ppo = recipe.stages
    assert recipe.run.seed == 1
    assert isinstance(sft, Learn)
    assert isinstance(ppo, Ppo)
    assert (sft.optim.lr, ppo.model, ppo.weights) == (3e-5, "base", (2.0,))
    assert complaint(tmp_path, GOOD, "sft.optim.lr=fast") == [
        "stage 'sft', field optim.lr: got 'fast', expected a number > 0"
    ]
    assert complaint(tmp_path, GOOD, "sft.optin.lr=1") == ["stage 'sft', field optin: unknown; did you mean 'optim'?"]


def test_table_and_single_stage() -> None:
    table = {"run": {"name": "x"}, "stage": [{"name": "a", "algorithm": "learn", "model": "m", "data": {"path": "p"}}]}
    assert parse_recipe(table, SECTIONS).stages[0].name == "a"
    stage = parse_stage(table["stage"][0], SECTIONS, ["train.steps=5", "data.limit=2"])  # type: ignore[index]
    assert isinstance(stage, Learn)
    assert (stage.train.steps, stage.data.limit) == (5, 2)
    assert "train" not in table["stage"][0]  # type: ignore[index]
    with pytest.raises(InputError, match=r"options: stage 'a', field train.step: unknown; did you mean 'steps'\?"):
        parse_stage(table["stage"][0], SECTIONS, ["train.step=5"])  # type: ignore[index]


def test_shipped_recipes_are_toml_files() -> None:
    assert all(path.suffix == ".toml" and path.is_file() for path in shipped_recipes())
