"""The sections stages share. A field's docstring is its `--help`, its reference page and its schema description."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """Where examples come from and what happens to those that do not fit."""

    path: str
    """A JSONL, JSON, CSV or Parquet file, a `datasets` folder or hub id, `stage:NAME`, `demo:NAME` or `gym:TASK`."""
    also: tuple[str, ...] = Field(default=(), strict=False)
    """More of the same: other paths whose examples, read in the same way, come after (`limit` holds for each)."""
    split: str = "train"
    """Which split of a hub id, `datasets` folder or demo set to read."""
    format: Literal[
        "auto", "text", "prompts", "prompt_response", "messages", "preference", "ranking", "unpaired", "steps"
    ] = "auto"
    """How to read a row; `auto` looks at the columns and says what it found."""
    rename: dict[str, str] = {}
    """Column in the file → the name Tether knows it by."""
    limit: int | None = Field(default=None, ge=1)
    """Read at most this many examples."""
    fold: str | None = Field(default=None, pattern=r"^-?[1-9][0-9]*/[1-9][0-9]*$")
    """`"1/3"` keeps one third of the prompts, by a hash of their tokens; `"-1/3"` all but that third."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Longest prompt plus response, in tokens; the model's context when not given."""
    on_too_long: Literal["error", "drop", "truncate_prompt", "truncate_response"] = "error"
    """What to do with an example over `max_tokens`. `truncate_prompt` cuts its start, `truncate_response` its end."""
    step_delimiter: str = Field(default="\n", min_length=1)
    """What stands between the steps of a response, where steps are labelled."""

    @field_validator("fold")
    @classmethod
    def _of_so_many(cls, fold: str | None) -> str | None:
        if fold is not None:
            which, count = (abs(int(part)) for part in fold.split("/"))
            if which > count or count < 2:
                raise ValueError(f"'{fold}' is no fold: say which of how many, such as 1/3 or -1/3")
        return fold


class SamplingConfig(Section):
    """How responses are drawn."""

    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits, in sampling and in every log-prob of training alike."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all. Refused in policy optimisation: it changes the distribution."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set of tokens with this probability. Refused below 1 in policy optimisation."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest response, the end-of-turn token included."""
    batch_size: int = Field(default=64, ge=1)
    """Responses decoded side by side; it changes speed and memory, not the samples."""


class OptimConfig(Section):
    """AdamW and its learning-rate schedule."""

    lr: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = Field(default=(0.9, 0.95), strict=False)
    """Decay of AdamW's running mean and running square."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to AdamW's denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices; biases, norms and embeddings have none."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps over which the rate rises linearly from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the rate after warm-up, down to `min_lr_ratio`."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where a linear or cosine schedule ends, as a share of `lr`."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""


class TrainConfig(Section):
    """How long, in what portions, and what is kept."""

    steps: int | None = Field(default=None, ge=1)
    """Iterations (a batch drawn and learnt from). Give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data. Give this or `steps`."""
    batch_size: int = Field(default=32, ge=1)
    """Groups drawn for an iteration."""
    mini_batch_size: int | None = Field(default=None, ge=1)
    """Groups of one optimiser step; the whole batch when not given."""
    mini_epochs: int = Field(default=1, ge=1)
    """Passes over an iteration's batch."""
    token_budget: int = Field(default=1024, ge=16)
    """Tokens of a micro-batch, prompts included: speed and memory only, never the result."""
    layout: Literal["auto", "rows", "tree", "varlen"] = "auto"
    """How groups become rows; `auto` takes `tree` (a prompt computed once per group) where the model can. `varlen`
    packs a micro-batch into one row without pads, for flash attention (where installed, on CUDA in half precision)."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights' and activations' type; `auto` is bfloat16 where the hardware multiplies it fast, else float32."""
    eval_every: int | None = Field(default=None, ge=1)
    """Iterations between evaluations on held-out data; only before the first and after the last when not given."""
    save_every: int | None = Field(default=None, ge=1)
    """Iterations between checkpoints; about twenty a run when not given."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints kept."""
    keep: Literal["last", "best"] = "last"
    """The weights the stage ends with. `best` is by the held-out score (loss, accuracy or `eval_reward`), never by the
    training reward."""
    log_every: int = Field(default=1, ge=1)
    """Iterations between lines of the event log."""
    tracker: Literal["none", "tensorboard"] = "none"
    """A copy of the metrics for a dashboard: `tensorboard` writes event files to that folder of the artifact."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give `steps` or `epochs`, not both")
        return self


class StageSection(Section):
    """What every stage says; its `algorithm` decides the other fields."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """The stage's folder in the run, and how other stages name it: `stage:NAME`. Small letters, digits, `-`, `_`."""
    algorithm: str
    """What the stage does."""
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Seed of this stage; the run's when not given."""


class TrainSection(StageSection):
    """What every stage that trains a model says."""

    model: str
    """Where the weights start: `base` (shipped), a folder, a hub id, or `stage:NAME`."""
    data: DataConfig
    """The examples or prompts to learn from."""
    eval_data: DataConfig | None = None
    """Held-out examples or prompts, watched during training and never learnt from."""
    train: TrainConfig = TrainConfig()
    """How long and in what portions."""
    optim: OptimConfig = OptimConfig()
    """The optimiser of the policy (or of the only trained role)."""
    end_of_turn: str | None = None
    """The token that closes a turn; the model's own end-of-sequence token when not given."""

    @model_validator(mode="after")
    def _best_by_something(self) -> TrainSection:
        if self.train.keep == "best" and self.eval_data is None:
            raise ValueError("train.keep = 'best' needs eval_data: the best checkpoint is chosen on held-out examples")
        return self
