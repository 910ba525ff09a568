"""What stages read, looked at before the first of them runs: an hour of training is no way to learn of a typing error.

Found here: models and data that are not there or not of the right kind, rows that cannot be understood, reward
functions that do not import, stages that do not make what another wants of them, packages that are missing. What needs
a model's weights or a tokenizer (an example too long for the context, a reward that is not a number) is found by the
stage itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tether.algorithms import ALGORITHMS
from tether.config import DataConfig, PolicySection, RewardTerm, StageSection
from tether.config.problems import nearest
from tether.data.load import check_data
from tether.data.template import Template
from tether.errors import InputError
from tether.feedback.constitution import load_constitution
from tether.models.load import check_device, check_model
from tether.pipeline.judges import check_judging, reward_options
from tether.pipeline.place import STAGE, is_function, model_at
from tether.pipeline.sections import BestOfNSection, CritiqueSection, LabelSection
from tether.rewards.function import load_function
from tether.rewards.verifiers import VERIFIERS, build_verifier

Kind = Literal["policy", "reward", "value"]

REWARDS = ("reward", "eval_reward", "judge")
"""Fields that name what scores a response."""


def precheck(stages: Sequence[StageSection], before: Sequence[StageSection] = ()) -> None:
    """Looks at everything `stages` read; `before` are other stages of the run, whose artifacts they may read.

    Raises:
        InputError: a line for each mistake, each naming stage and field.
    """
    made = {stage.name: stage for stage in (*before, *stages)}
    found = [problem for stage in stages for problem in problems(stage, made)]
    if found:
        raise InputError(found[0] if len(found) == 1 else "\n  ".join([f"{len(found)} problems", *found]))


def problems(stage: StageSection, made: Mapping[str, StageSection]) -> Iterator[str]:
    """One sentence for each input of a stage that is not what it should be."""
    for field, kind, name in models(stage):
        yield from said(stage, field, check_role, name, kind, made, field == "model", stage)
    if isinstance(stage, PolicySection):
        yield from said(stage, "reference", check_start, stage)
    train = getattr(stage, "train", stage)
    if hasattr(train, "device"):
        yield from said(stage, "device" if train is stage else "train.device", check_device, train.device)
    for field, reward, term in rewards(stage):
        yield from said(stage, field, check_reward, reward, made, term)
    for field, config, need in data(stage):
        yield from said(stage, f"{field}.path", check_examples, config.path, config, need, made)
        for index, path in enumerate(config.also):
            yield from said(stage, f"{field}.also.{index}", check_examples, path, config, need, made)
    if isinstance(stage, CritiqueSection):
        yield from said(stage, "constitution.path", load_constitution, stage.constitution)
    if isinstance(stage, LabelSection):
        yield from said(stage, "judge", check_judging, stage)
        yield from said(stage, "responses", check_responses, stage, made)
        if stage.select is not None:
            yield from said(stage, "select", check_pairs, stage.responses, made)
            yield from said(stage, "select.device", check_device, stage.select.device)
            for index, name in enumerate(stage.select.models):
                yield from said(stage, f"select.models.{index}", check_member, name, made)


def rewards(stage: StageSection) -> Iterator[tuple[str, str, RewardTerm]]:
    """(field, name, term) of what scores responses for a stage."""
    for field in REWARDS:
        reward = getattr(stage, field, None)
        if isinstance(reward, str):
            yield field, reward, RewardTerm(use=reward)
        for index, term in enumerate(reward if isinstance(reward, tuple) else ()):
            for name in (term.use,) if isinstance(term.use, str) else term.use:
                yield f"{field}.{index}.use", name, term


def said(stage: StageSection, field: str, check: Any, *given: Any) -> Iterator[str]:
    """The sentence of a check that fails, with where it was."""
    try:
        check(*given)
    except InputError as error:
        yield f"stage '{stage.name}', field {field}: {error}"


def models(stage: StageSection) -> Iterator[tuple[str, Kind, str]]:
    """(field, kind, name) of the models a stage starts from, each name once."""
    if stage.algorithm in ALGORITHMS:
        fields = {"reference": "reference", "value": "value.model"}
        seen = set[str]()
        for role, spec in ALGORITHMS[stage.algorithm].roles(stage).items():
            if spec.model not in seen:
                seen.add(spec.model)
                yield fields.get(role, "model"), spec.kind, spec.model
    else:
        for field in ("model", "baseline"):
            if hasattr(stage, field):
                yield field, "policy", getattr(stage, field)
        if isinstance(stage, LabelSection) and stage.judge is not None and stage.judge.url is None:
            yield "judge.model", "policy", stage.judge.model


def data(stage: StageSection) -> Iterator[tuple[str, DataConfig, Any]]:
    """(field, data, what is needed of it) of the data sections of a stage."""
    needs = {"init": "text", **dict.fromkeys(("sample", "best_of_n", "critique", "evaluate"), "prompts")}
    need = ALGORITHMS[stage.algorithm].data if stage.algorithm in ALGORITHMS else needs.get(stage.algorithm)
    for field in type(stage).model_fields:
        config = getattr(stage, field)
        if isinstance(config, DataConfig):
            yield field, config, "preference" if field == "comparisons" else need
    mix = ALGORITHMS[stage.algorithm].mix if stage.algorithm in ALGORITHMS else None
    if mix is not None and (mixed := mix.data(stage)) is not None:
        yield mix.field, mixed, mix.need


def product(stage: StageSection) -> str:
    """What a stage makes, as its users ask for it: a kind of model, `responses`, `comparisons` or `figures`."""
    if stage.algorithm in ALGORITHMS:
        return next(iter(ALGORITHMS[stage.algorithm].roles(stage).values())).kind
    made = {"init": "policy", "label": "comparisons"} | dict.fromkeys(("sample", "best_of_n", "critique"), "responses")
    return made.get(stage.algorithm, "figures")


WORDS = {
    "policy": "a language model",
    "reward": "a reward model",
    "value": "a value model",
    "responses": "responses",
    "comparisons": "comparisons",
    "figures": "figures",
}
"""Product → how a message calls it."""


def refuse_other(name: str, made: Mapping[str, StageSection], wanted: Sequence[str]) -> None:
    """InputError when `stage:NAME` makes something else than what is wanted."""
    source = made.get(name.removeprefix(STAGE))
    if source is None:
        raise InputError(f"'{name}' is no stage of this run; give a file, a folder or a hub id")
    makes = product(source)
    if makes not in wanted:
        expected = " or ".join(WORDS[w] for w in wanted)
        raise InputError(
            f"{name} is a stage of algorithm `{source.algorithm}`, which makes {WORDS[makes]}, not {expected}"
        )


def check_role(name: str, kind: Kind, made: Mapping[str, StageSection], reads: bool, about: object) -> None:
    """A model to start from: of the right kind, its files there and whole, its tokenizer too if it `reads` for all."""
    if name.startswith(STAGE):
        refuse_other(name, made, ("policy",) if kind == "policy" else ("policy", "reward"))
    else:
        path = model_at(beside_stages(name, made))
        check_model(path, kind)
        if reads:
            Template.load(path, end_of_turn=getattr(about, "end_of_turn", None))


def check_start(stage: PolicySection) -> None:
    """A policy that starts from one stage and is held to another does not start at KL 0: that must be meant."""
    reference = stage.reference or stage.model
    both = reference.startswith(STAGE) and stage.model.startswith(STAGE)
    if stage.kl.start == 0 and both and reference != stage.model:
        raise InputError(
            f'{reference} is not {stage.model}, where the policy starts; say kl.start = "any" if you mean it'
        )


def check_reward(name: str, made: Mapping[str, StageSection], term: RewardTerm) -> None:
    """A reward: a verifier whose options are right, a function that imports, or a reward model of the kind wanted."""
    scores_steps = name not in ("judge", *VERIFIERS) and not is_function(name)
    if term.steps is not None and not scores_steps:
        raise InputError(f"'{name}' scores no steps: leave `steps` out, or give a process reward model")
    if name == "judge":
        judge = reward_options(term.options)
        if judge.url is None:
            check_role(judge.model, "policy", made, True, judge)
    elif name in VERIFIERS:
        build_verifier(name, term.options)
    elif term.options:
        raise InputError(f"'{name}' takes no options; they are for judge and {', '.join(sorted(VERIFIERS))}")
    elif name.startswith(STAGE):
        refuse_other(name, made, ("reward",))
        by_steps = made[name.removeprefix(STAGE)].algorithm == "process_reward"
        if by_steps != (term.steps is not None):
            say_how = f'scores steps; only in a table of `reward` can it be used: {{ use = "{name}", steps = "min" }}'
            raise InputError(f"{name} {say_how if by_steps else 'scores no steps: leave `steps` out'}")
    elif is_function(name):
        load_function(name)
    elif is_mistyped(name):
        raise InputError(f"'{name}' is no verifier, and no reward model is there; {nearest(name, VERIFIERS)}")
    else:
        path = model_at(beside_stages(name, made))
        check_model(path, "reward", require_head=True)
        Template.load(path)


def beside_stages(name: str, made: Mapping[str, StageSection]) -> str:
    """The name. InputError when only a stage has it: a hub would be asked for it, again and again."""
    if name != "base" and name in made and not Path(name).exists():
        raise InputError(f"'{name}' is no folder here; to take what the stage of that name makes, say {STAGE}{name}")
    return name


def is_mistyped(name: str) -> bool:
    """Whether a name that is nothing else is nearly a verifier's."""
    return not Path(name).exists() and bool(get_close_matches(name, VERIFIERS))


MADE_FOR = {
    "text": ("responses",),
    "prompts": ("responses", "comparisons"),
    "responses": ("responses",),
    "preference": ("comparisons",),
    "unpaired": ("comparisons",),
    "steps": (),
}
"""What a stage needs of its data → the products of other stages that hold it."""


def check_examples(path: str, config: DataConfig, need: Any, made: Mapping[str, StageSection]) -> None:
    """Data: there, and with rows of the format needed."""
    if path.startswith(STAGE):
        refuse_other(path, made, MADE_FOR[need])
    else:
        check_data(config.model_copy(update={"path": path, "also": ()}), need)


def check_responses(stage: LabelSection, made: Mapping[str, StageSection]) -> None:
    """What a `label` stage compares: two responses or more, and the packages that judge and keep them."""
    name = stage.responses
    if not name.startswith(STAGE):
        raise InputError(f"got '{name}', expected a `sample` stage of this run: stage:NAME")
    refuse_other(name, made, ("responses",))
    source = made[name.removeprefix(STAGE)]
    field = "keep" if source.algorithm == "best_of_n" else "num_responses"
    if getattr(source, field, 1) < 2:
        raise InputError(f"{name} has one response to a prompt, which leaves nothing to compare; set its {field}")
    raters = ["vaderSentiment"] if stage.annotators == "vader" else []
    missing = [package for package in ("sqlalchemy", "alembic", *raters) if find_spec(package) is None]
    if missing:
        raise InputError(f"labelling needs the package {missing[0]}: pip install 'tether-rlhf[demo]'")


def check_pairs(name: str, made: Mapping[str, StageSection]) -> None:
    """What active selection chooses from: pairs."""
    source = made.get(name.removeprefix(STAGE))
    field = "keep" if isinstance(source, BestOfNSection) else "num_responses"
    if (count := getattr(source, field, 2)) > 2:
        raise InputError(f"chooses among pairs, and {name} has {count} responses to a prompt; set its {field} to 2")


def check_member(name: str, made: Mapping[str, StageSection]) -> None:
    """A member of the ensemble that selects: a reward model, whose scores are log-odds up to a constant."""
    if name == "judge" or name in VERIFIERS or is_function(name):
        raise InputError(f"'{name}' is no reward model; give `stage:NAME`, a folder or a hub id")
    check_reward(name, made, RewardTerm(use=name))
