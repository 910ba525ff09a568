"""The stages that are not training: a new model, sampling, labelling, evaluation. And the table of all sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tether.config import DataConfig, SamplingConfig, Section, StageSection


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
    vocab_size: int = Field(default=4096, ge=300)
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


class LabelSection(StageSection):
    """Annotators compare sampled responses through the preference store; comparisons come out, split by prompt."""

    algorithm: Literal["label"] = "label"
    """What the stage does."""
    responses: str
    """A `sample` stage with at least two responses a prompt: `stage:NAME`."""
    annotators: Literal["vader"] = "vader"
    """Who votes: the ten raters of the vaderSentiment lexicon, each with their own ratings."""
    overlap: int = Field(default=3, ge=1, le=10)
    """Votes a comparison gets."""
    held_out: float = Field(default=0.15, gt=0, lt=1)
    """Share of the prompts whose comparisons go to the `validation` split."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of what is added to each annotator's opinion (-1 to 1) of a text each time."""
    guideline: str = "Which reply would you rather get in a friendly chat?"
    """What annotators are asked; versioned with every vote."""


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
    return stages | {"init": InitSection, "sample": SampleSection, "label": LabelSection, "evaluate": EvaluateSection}
