"""Where a stage stands: its folder, and how names in a recipe become models and data."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.config import DataConfig, StageSection
from tether.errors import InputError
from tether.pipeline.artifacts import hash_path, read_jsonl, write_json

if TYPE_CHECKING:
    from tether.data.template import Template
    from tether.types import Group, Scorer

STAGE = "stage:"


@dataclass(frozen=True)
class Place:
    """A stage within a run."""

    run: Path
    """The run's folder, where other stages' artifacts are."""
    folder: Path
    """This stage's artifact: `run/NAME`, or any folder for a stage run on its own."""
    section: StageSection
    """What the recipe says of the stage."""
    seed: int
    """The stage's seed."""

    def artifact(self, reference: str) -> Path:
        """The folder of the stage a `stage:NAME` reference names."""
        return self.run / reference.removeprefix(STAGE)

    def model(self, name: str) -> str:
        """A model as the recipe names it → a folder, or a hub id.

        Raises:
            InputError: a stage that made no model.
        """
        from tether.models.load import resolve_model

        if not name.startswith(STAGE):
            made = Path(name) / "model"  # a stage's artifact stands for the model in it
            return resolve_model(str(made) if (made / "config.json").is_file() else name)
        folder = self.artifact(name) / "model"
        if not folder.is_dir():
            raise InputError(f"stage '{self.section.name}': {name} made no model; it is not a stage that trains one")
        return str(folder)

    def groups(
        self, config: DataConfig, template: Template, max_context: int, need: Any, report_as: str | None = None
    ) -> list[Group]:
        """The examples a data section names, tokenised; another stage's groups keep their very tokens.

        With `report_as`, the data report is written beside the artifact under that name.
        """
        from tether.data.load import load_groups

        if not config.path.startswith(STAGE):
            found, report = load_groups(config, template, max_context, need=need)
            if report_as:
                write_json(self.folder / f"{report_as}.json", report.as_dict())
            return found
        return self._made(config, template, need)

    def _made(self, config: DataConfig, template: Template, need: str) -> list[Group]:
        from tether.rollout.collect import from_rows

        folder = self.artifact(config.path)
        file = next((f for f in (folder / f"{config.split}.jsonl", folder / "groups.jsonl") if f.is_file()), None)
        where = f"stage '{self.section.name}', data {config.path}"
        if file is None:
            raise InputError(f"{where}: that stage has no examples of split '{config.split}'")
        rows = read_jsonl(file)[: config.limit]
        if need == "preference" and not all("ranking" in row["labels"] for row in rows):
            raise InputError(f"{where}: its responses have not been compared; put a `label` stage between")
        made_with = (folder / "tokenizer.hash").read_text(encoding="utf-8")
        if made_with != tokenizer_hash(template):
            raise InputError(
                f"{where}: was made with another tokenizer than this stage's model has; use models that share one"
            )
        return from_rows(rows)

    def scorer(self, name: str, template: Template, *, device: str, token_budget: int) -> Scorer:
        """What a recipe names as a reward: a reward model (`stage:NAME`, folder, hub id) or a `module:function`."""
        from tether.data.template import Template as Loaded
        from tether.models.load import load_scalar
        from tether.rewards.function import FunctionScorer, load_function
        from tether.rewards.reward_model import RewardModelScorer

        if ":" in name and not name.startswith(STAGE) and not Path(name).exists():
            return FunctionScorer(load_function(name))
        path = self.model(name)
        role = load_scalar(path, device=device, kind="reward", require_head=True)
        if tokenizer_hash(Loaded.load(path)) != tokenizer_hash(template):
            raise InputError(f"stage '{self.section.name}': reward model {name} has another tokenizer than the policy")
        return RewardModelScorer(role.requires_grad_(False), token_budget)


def tokenizer_hash(template: Template) -> str:
    """Hash of a vocabulary: models that share it read the same token ids."""
    from tether.pipeline.artifacts import digest

    return digest(template.tokenizer.get_vocab())


def inputs_of(values: Any, keys: dict[str, str], stage: str, field: str = "") -> dict[str, str]:
    """Field → identity of what a stage reads: stages' keys, hashes of files and of functions' modules."""
    if isinstance(values, dict):
        found: dict[str, str] = {}
        for name, value in values.items():
            found |= inputs_of(value, keys, stage, f"{field}.{name}" if field else name)
        return found
    if not isinstance(values, str) or not values:
        return {}
    if values.startswith(STAGE):
        return {field: keys[values.removeprefix(STAGE)]}
    if field in ("model", "baseline", "reference", "value.model", "reward") and values == "base":
        from tether.models.load import resolve_model

        return {field: hash_path(Path(resolve_model(values)))}
    if field.split(".")[-1] not in PATHS:
        return {}
    path = Path(values)
    if path.exists():
        return {field: hash_path(path)}
    module = values.split(":")[0]
    if ":" in values and module.replace(".", "").isidentifier() and not values.startswith("demo:"):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            return {}
        return {field: hash_path(Path(spec.origin))} if spec and spec.origin and Path(spec.origin).is_file() else {}
    return {}


PATHS: Sequence[str] = ("path", "model", "baseline", "reference", "reward", "eval_reward", "judge", "responses")
"""Fields that name something to read."""
