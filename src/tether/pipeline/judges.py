"""From what a recipe says of a judge to a judge that can be asked, in the feedback room or as a reward."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tether.config.judge import JudgeConfig, JudgeRewardConfig
from tether.config.problems import problems
from tether.errors import InputError
from tether.feedback.constitution import load_constitution
from tether.pipeline.artifacts import hash_path
from tether.pipeline.place import Place
from tether.pipeline.sections import LabelSection

if TYPE_CHECKING:
    from tether.feedback.judges import Ask, Pair
    from tether.rewards.journal import Journal
    from tether.rewards.judge import Judge, JudgeScorer, ModelJudge


def check_judging(section: LabelSection) -> None:
    """Everything a judge's labelling needs that can be looked at before a model is loaded or a request is paid for.

    Raises:
        InputError: a key, a package, the principles or people's votes are not there.
    """
    if section.judge is not None:
        check_judge(section.judge)
    if section.constitution is not None:
        load_constitution(section.constitution)
    if section.calibration is not None:
        check_store(Path(section.calibration.path))


def check_store(path: Path) -> None:
    """InputError when there is no preference store in a file, as far as its beginning tells."""
    if not path.is_file():
        raise InputError(f"calibration.path {path}: there is no such file; give a preference store")
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise InputError(f"calibration.path {path}: is no SQLite file; give a preference store")


def check_judge(config: JudgeConfig) -> None:
    """InputError when the key of a judge behind a server is not set, or the package that asks it is missing."""
    if config.key_env is not None and not os.environ.get(config.key_env):
        raise InputError(f"judge {config.model}: the environment variable {config.key_env} is not set")
    if config.url is not None and find_spec("httpx2") is None:
        raise InputError("a judge behind a server needs the package httpx2: pip install 'tether-rlhf[judge]'")


@contextmanager
def judge_of(config: JudgeConfig, path_of: Callable[[str], str], journal: Path) -> Iterator[Journal]:
    """The judge a recipe names, with what it said so far in `journal`. `path_of` finds a model by its name."""
    from tether.rewards.journal import Journal
    from tether.rewards.judge_server import ServerJudge

    server = ServerJudge(config) if config.url is not None else None
    judge: Judge = server or model_judge(config, path_of(config.model))
    try:
        yield Journal(judge, journal)
    finally:
        if server is not None:
            server.close()


def judge_reward(place: Place, options: Mapping[str, Any]) -> JudgeScorer:
    """A judge as the reward `judge`; what it says is kept with the stage, so that a resumed run hears the same.

    InputError as of `reward_options` and `check_judge`.
    """
    from tether.rewards.journal import Journal
    from tether.rewards.judge import JudgeScorer
    from tether.rewards.judge_server import ServerJudge

    config = reward_options(options)
    judge: Judge = ServerJudge(config) if config.url is not None else model_judge(config, place.model(config.model))
    return JudgeScorer(Journal(judge, place.folder / "judge.jsonl"), config.guideline, config.ask)


def reward_options(options: Mapping[str, Any]) -> JudgeRewardConfig:
    """The options of the reward `judge`, checked. InputError names the one that is wrong."""
    try:
        config = JudgeRewardConfig.model_validate(dict(options))
    except ValidationError as error:
        raise InputError("; ".join(problems(error, JudgeRewardConfig, "reward 'judge'"))) from None
    check_judge(config)
    return config


def model_judge(config: JudgeConfig, path: str) -> ModelJudge:
    """A judge in this process, from a folder or hub id.

    Its name holds its content: another model of the same name answers for itself.
    """
    from tether.data.template import Template
    from tether.models.load import load_policy
    from tether.rewards.judge import ModelJudge

    content = hash_path(Path(path)) if Path(path).is_dir() else ""
    role = load_policy(path, device=config.device).requires_grad_(False)
    return ModelJudge(role, Template.load(path), f"{config.model} {content}".strip(), config.token_budget)


def asker(judge: Judge) -> Ask:
    """The judge as the feedback room asks it."""
    from tether.rewards.judge import Comparison, both_ways

    def ask(pairs: Sequence[Pair]) -> list[tuple[float, float] | str]:
        return both_ways(judge, [Comparison(*pair) for pair in pairs])

    return ask


def guidelines_of(section: LabelSection) -> list[str]:
    """What the judge judges by: the principles' standards, or the section's guideline."""
    if section.constitution is None:
        return [section.guideline]
    return [principle.compare for principle in load_constitution(section.constitution)]
