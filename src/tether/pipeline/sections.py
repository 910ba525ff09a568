"""Stages that are not training (a new model, sampling, self-critique, labelling, evaluation), and the table of all."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tether.config import DataConfig, Reward, RewardTerm, SamplingConfig, Section, StageSection, as_terms
from tether.config.judge import CalibrationConfig, ConstitutionConfig, JudgeConfig


class Architecture(Section):
    """Sizes of a new Llama-architecture model."""

    hidden_size: int = Field(default=256, ge=8)
    """Width."""
    intermediate_size: int = Field(default=512, ge=8)
    """Width inside the feed-forward layers."""
    num_hidden_layers: int = Field(default=4, ge=1)
    """Layers."""
    num_attention_heads: int = Field(default=4, ge=1)
    """Query heads."""
    num_key_value_heads: int = Field(default=4, ge=1)
    """Key and value heads."""
    max_position_embeddings: int = Field(default=512, ge=16)
    """Longest context, in tokens."""


class InitSection(StageSection):
    """A tokenizer trained on text and a model with random weights."""

    algorithm: Literal["init"] = "init"
    """What the stage does."""
    data: DataConfig
    """Text the tokenizer's vocabulary is learnt from."""
    vocab_size: int = Field(default=4096, ge=261)
    """Tokens of the byte-level BPE vocabulary, special tokens included."""
    architecture: Architecture = Architecture()
    """Sizes of the model."""


class SampleSection(StageSection):
    """K responses to each prompt, from one model."""

    algorithm: Literal["sample"] = "sample"
    """What the stage does."""
    model: str
    """The policy that answers."""
    data: DataConfig
    """The prompts."""
    num_responses: int = Field(default=2, ge=1)
    """Responses sampled for each prompt."""
    sampling: SamplingConfig = SamplingConfig()
    """How responses are drawn."""
    end_of_turn: str | None = None
    """The token that closes a turn; the model's own when not given."""
    device: str = "auto"
    """Where the model runs."""


class BestOfNSection(StageSection):
    """Rejection sampling: of n responses to each prompt the best by a reward, as demonstrations for `sft`."""

    algorithm: Literal["best_of_n"] = "best_of_n"
    """What the stage does."""
    model: str
    """The policy that answers."""
    data: DataConfig
    """The prompts."""
    reward: Reward
    """What the best is best by."""
    num_responses: int = Field(default=8, ge=2)
    """n: responses sampled for each prompt."""
    keep: int = Field(default=1, ge=1)
    """k: how many of them are kept."""
    sampling: SamplingConfig = SamplingConfig()
    """How responses are drawn."""
    end_of_turn: str | None = None
    """The token that closes a turn; the model's own when not given."""
    device: str = "auto"
    """Where the models run."""

    @model_validator(mode="after")
    def _fewer_than_all(self) -> BestOfNSection:
        if self.keep >= self.num_responses:
            raise ValueError(f"keep = {self.keep} must be below num_responses = {self.num_responses}")
        return self

    @property
    def terms(self) -> tuple[RewardTerm, ...]:
        """The rewards as a list, whichever way they were said."""
        return as_terms(self.reward)


class SelectConfig(Section):
    """Active selection: an ensemble of reward models says which pairs are worth asking about."""

    models: tuple[str, ...] = Field(strict=False)
    """Two or more reward models: `stage:NAME`, folders or hub ids. Of one with several heads each is a member."""
    num: int = Field(ge=1)
    """Pairs to label."""
    uniform: float = Field(default=0.25, gt=0, le=1)
    """Share of them that are any pairs, whatever the ensemble says; 1 is no active selection."""
    power: float = Field(default=1.0, ge=0)
    """The other pairs' chance is in proportion to the ensemble's disagreement (BALD) to this power: 0 is no preference,
    more than 1 is greedier."""
    device: str = "auto"
    """Where the reward models run, one after the other."""

    @field_validator("models")
    @classmethod
    def _an_ensemble(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(models) < 2:
            raise ValueError(f"got {len(models)} reward models; one cannot disagree with itself, so give two or more")
        if twice := [name for name in models if models.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is there twice, and never disagrees with itself")
        return models


class LabelSection(StageSection):
    """Annotators compare sampled responses through the preference store; comparisons come out, split by prompt."""

    algorithm: Literal["label"] = "label"
    """What the stage does."""
    responses: str
    """A `sample` stage with at least two responses a prompt: `stage:NAME`."""
    annotators: Literal["vader", "judge"] = "vader"
    """Who votes: the ten raters of the vaderSentiment lexicon, each with their own ratings, or the AI of `judge`."""
    judge: JudgeConfig | None = None
    """The language model that votes, asked about every pair both ways round."""
    constitution: ConstitutionConfig | None = None
    """Principles that take the place of `guideline` for a judge: one is drawn for each comparison."""
    calibration: CalibrationConfig | None = None
    """People's votes a judge must agree with before its own are exported."""
    overlap: int = Field(default=3, ge=1, le=10)
    """Votes a comparison gets from the raters; a judge gives one."""
    held_out: float = Field(default=0.15, gt=0, lt=1)
    """Share of the prompts whose comparisons go to the `validation` split."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of what is added to each annotator's opinion (-1 to 1) of a text each time."""
    guideline: str = "Which reply would you rather get in a friendly chat?"
    """What annotators are asked; versioned with every vote."""
    select: SelectConfig | None = None
    """Label only some of the pairs, chosen by active selection; all when not given."""

    @model_validator(mode="after")
    def _what_is_for_judges(self) -> LabelSection:
        if self.annotators == "judge" and self.judge is None:
            raise ValueError("annotators = 'judge' needs a table `judge` that says which model it is")
        given = [name for name in ("judge", "constitution", "calibration") if getattr(self, name) is not None]
        if self.annotators != "judge" and given:
            raise ValueError(f"{given[0]} is for annotators = 'judge'; the raters have their own opinions")
        return self


class CritiqueSection(StageSection):
    """A model criticises its own answers by written principles and revises them: demonstrations for SFT."""

    algorithm: Literal["critique"] = "critique"
    """What the stage does."""
    model: str
    """The policy that answers, criticises and revises."""
    data: DataConfig
    """The prompts."""
    constitution: ConstitutionConfig
    """The principles; each revision draws one."""
    revisions: int = Field(default=1, ge=1)
    """How often an answer is criticised and revised."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers, critiques and revisions are drawn."""
    end_of_turn: str | None = None
    """The token that closes a turn; the model's own when not given."""
    device: str = "auto"
    """Where the model runs."""


class EvaluateSection(StageSection):
    """A policy against a baseline on held-out prompts: win rate, gold score, KL, diversity, reward-model quality."""

    algorithm: Literal["evaluate"] = "evaluate"
    """What the stage does."""
    model: str
    """The policy."""
    baseline: str
    """What it is compared with, and what its KL is measured to."""
    data: DataConfig
    """Held-out prompts."""
    judge: str
    """What decides who won: `module:function` with TRL's reward signature."""
    reward: str | None = None
    """A reward model whose quality is measured: `stage:NAME` or a folder."""
    comparisons: DataConfig | None = None
    """Held-out comparisons to measure it on."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers are drawn."""
    end_of_turn: str | None = None
    """The token that closes a turn; the model's own when not given."""
    device: str = "auto"
    """Where the models run."""


def sections() -> dict[str, type[StageSection]]:
    """Algorithm name → its section of a recipe."""
    from tether.algorithms import ALGORITHMS

    stages: dict[str, type[StageSection]] = {a.name: a.config for a in ALGORITHMS.values()}
    return stages | {
        "init": InitSection,
        "sample": SampleSection,
        "best_of_n": BestOfNSection,
        "critique": CritiqueSection,
        "label": LabelSection,
        "evaluate": EvaluateSection,
    }
