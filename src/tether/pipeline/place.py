"""Where a stage stands: its folder, and how names in a recipe become models and data."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.config import DataConfig, RewardTerm, StageSection
from tether.errors import InputError
from tether.pipeline.artifacts import hash_path, read_jsonl, write_json

if TYPE_CHECKING:
    from tether.data.template import Template
    from tether.rewards.combine import WeightedSum
    from tether.rewards.reward_model import RewardModelScorer, TextScorer
    from tether.types import Group, Scorer

STAGE = "stage:"
BASE = Path(__file__).resolve().parents[1] / "base_model"
"""What `model = "base"` reads; named here too, because asking the models room would import torch to say 'done'."""


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
        if not name.startswith(STAGE):
            return model_at(name)
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

        if config.also:
            every = [config.model_copy(update={"path": path, "also": ()}) for path in (config.path, *config.also)]
            named = [report_as and (report_as if n == 1 else f"{report_as}-{n}") for n in range(1, len(every) + 1)]
            pairs = zip(every, named, strict=True)
            return [g for one, name in pairs for g in self.groups(one, template, max_context, need, name)]
        if not config.path.startswith(STAGE):
            found, report = load_groups(config, template, max_context, need=need)
            if report_as:
                write_json(self.folder / f"{report_as}.json", report.as_dict())
            return found
        return self._made(config, template, need)

    def _made(self, config: DataConfig, template: Template, need: str) -> list[Group]:
        from tether.data.load import in_fold, unpaired
        from tether.rollout.rows import from_rows

        folder = self.artifact(config.path)
        file = next((f for f in (folder / f"{config.split}.jsonl", folder / "groups.jsonl") if f.is_file()), None)
        where = f"stage '{self.section.name}', data {config.path}"
        if file is None:
            raise InputError(f"{where}: that stage has no examples of split '{config.split}'")
        rows = read_jsonl(file)[: config.limit]
        if need in ("preference", "unpaired") and not all("ranking" in row["labels"] for row in rows):
            raise InputError(f"{where}: its responses have not been compared; put a `label` stage between")
        made_with = (folder / "tokenizer.hash").read_text(encoding="utf-8")
        if made_with != tokenizer_hash(template):
            raise InputError(
                f"{where}: was made with another tokenizer than this stage's model has; use models that share one"
            )
        groups = [g for g in from_rows(rows) if in_fold(g, config.fold)]
        found = [example for g in groups for example in unpaired(g)] if need == "unpaired" else groups
        if not found:
            fold = f" (fold {config.fold})" if config.fold else ""
            raise InputError(f"{where}: of its {len(rows)} examples of split '{config.split}' none can be used{fold}")
        return found

    def reward(self, terms: Sequence[RewardTerm], template: Template, *, device: str, token_budget: int) -> WeightedSum:
        """The rewards a policy is trained on, each under its own name and weight."""
        from tether.rewards.combine import Part, WeightedSum

        where = {"device": device, "token_budget": token_budget}
        return WeightedSum(tuple(Part(t.label, self._term(t, template, **where), t.weight, t.dense) for t in terms))

    def _term(self, term: RewardTerm, template: Template, **where: Any) -> Scorer:
        if isinstance(term.use, str):
            scorer = self.scorer(term.use, template, options=term.options, **where)
            if term.steps is None:
                return scorer
            from tether.rewards.process import ProcessScorer
            from tether.rewards.reward_model import RewardModelScorer

            if not isinstance(scorer, RewardModelScorer):
                raise InputError(
                    f"stage '{self.section.name}': reward {term.use} cannot score steps: it is no reward model, or "
                    "reads other tokens than the policy writes"
                )
            return ProcessScorer(scorer.role, template.decode, term.step_delimiter, term.steps, where["token_budget"])
        from tether.rewards.ensemble import Ensemble

        members = tuple(self.scorer(name, template, **where) for name in term.use)
        return Ensemble(members, term.ensemble, term.spread_penalty)

    def scorer(
        self, name: str, template: Template, *, device: str, token_budget: int, options: Mapping[str, Any] | None = None
    ) -> Scorer:
        """What a recipe names as a reward: a reward model (`stage:NAME`, folder, hub id), a verifier, `judge`, or a
        `module:function`."""
        from tether.rewards.function import FunctionScorer, load_function
        from tether.rewards.verifiers import VERIFIERS, build_verifier

        if name == "judge":
            from tether.pipeline.judges import judge_reward

            return judge_reward(self, options or {})
        if name in VERIFIERS:
            return build_verifier(name, dict(options or {}))
        if is_function(name):
            return FunctionScorer(load_function(name))
        return self.reward_model(name, tokenizer_hash(template), device=device, token_budget=token_budget)

    def reward_model(self, name: str, read: str, *, device: str, token_budget: int) -> RewardModelScorer | TextScorer:
        """A reward model (`stage:NAME`, folder, hub id) for responses in tokens of the tokenizer of hash `read`."""
        from tether.data.template import Template as Loaded
        from tether.models.load import load_scalar
        from tether.rewards.reward_model import RewardModelScorer, TextScorer

        path = self.model(name)
        role = load_scalar(path, device=device, kind="reward", require_head=True)
        role.requires_grad_(False)
        own = Loaded.load(path)
        if tokenizer_hash(own) != read:
            return TextScorer(role, own, token_budget=token_budget)
        return RewardModelScorer(role, token_budget)


def is_function(name: str) -> bool:
    """Whether a reward is named as `module:function`."""
    return ":" in name and not name.startswith(STAGE) and not Path(name).exists()


def check_same_tokens(name: str, path: str, template: Template) -> None:
    """InputError when a model beside a stage's own reads other token ids; one without a tokenizer is believed."""
    from tether.data.template import Template as Loaded

    try:
        own = Loaded.load(path)
    except InputError:
        return
    if tokenizer_hash(own) != tokenizer_hash(template):
        raise InputError(f"{name} has another tokenizer than the stage's model; use models that share one")


def tokenizer_hash(template: Template) -> str:
    """Hash of a vocabulary: models that share it read the same token ids."""
    from tether.pipeline.artifacts import digest

    return digest(template.tokenizer.get_vocab())


def inputs_of(values: Any, keys: Mapping[str, str], stage: str, field: str = "") -> dict[str, str]:
    """Field → identity of what a stage reads: stages' keys, hashes of files and of functions' modules.

    Raises:
        InputError: a `stage:NAME` that `keys` does not hold.
    """
    found: dict[str, str] = {}
    if isinstance(values, dict | list | tuple):
        named = values.items() if isinstance(values, dict) else enumerate(values)
        for name, value in named:
            found |= inputs_of(value, keys, stage, f"{field}.{name}" if field else str(name))
        return found
    if not isinstance(values, str) or not values:
        return {}
    if values.startswith(STAGE):
        name = values.removeprefix(STAGE)
        if name not in keys:
            raise InputError(f"stage '{stage}', field {field}: '{values}' is no stage of this run")
        return {field: keys[name]}
    source = source_of(field, values)
    return {} if source is None else {field: hash_path(source)}


DATA = ("path", "also", "responses")
"""Fields that name data to read."""
MODELS = ("model", "models", "baseline", "reference", "reward", "eval_reward", "judge", "use")
"""Fields that name a model, or what else scores responses."""
WORDS = {"value.model": ("reward", "policy", "shared")}
"""What such a field may say without naming anything on the disk."""


def source_of(field: str, value: str) -> Path | None:
    """What on this disk a field names: a file, a folder, the source of a `module:function`; None for anything else."""
    kind = [step for step in field.split(".") if not step.isdigit()][-1]
    if kind not in DATA + MODELS or value in WORDS.get(field, ()) or value.startswith(("demo:", "gym:")):
        return None
    is_data = kind in DATA
    if not is_data and value == "base":
        return BASE
    path = Path(value).expanduser()
    if path.exists():
        return path if is_data else made_in(path)
    module, colon, _ = value.partition(":")
    return source_file(module) if colon else None


def made_in(path: Path) -> Path:
    """A stage's artifact stands for the model in it; any other folder for itself."""
    return path / "model" if (path / "model" / "config.json").is_file() else path


def model_at(name: str) -> str:
    """The folder or hub id of a model that is no stage of this run. InputError when it can be neither."""
    from tether.models.load import resolve_model

    folder = made_in(Path(name).expanduser())
    return resolve_model(str(folder) if name != "base" and folder.is_dir() else name)


def source_file(module: str) -> Path | None:
    """A module's source, the working directory searched first; neither it nor the packages it is in are imported."""
    importlib.invalidate_caches()
    places, origin = [os.getcwd(), *sys.path], None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            return None
        places, origin = list(spec.submodule_search_locations or ()), spec.origin
    return Path(origin) if origin is not None and Path(origin).is_file() else None
