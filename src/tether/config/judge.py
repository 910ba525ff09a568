"""What a recipe says of an AI judge and of a constitution."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tether.config.sections import Section


class JudgeConfig(Section):
    """A language model that judges: in this process, or behind any OpenAI-compatible server."""

    model: str
    """In process: a folder, hub id or `stage:NAME`. With `url`: the name the server knows the model by."""
    url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    """Address of the server's API, such as `http://localhost:8000/v1`; the judge runs in process when not given."""
    key_env: str | None = None
    """Name of the environment variable that holds the server's API key; never the key itself."""
    tie: float = Field(default=0.1, ge=0, lt=1)
    """Answers tie when the chances of the two to be the better, both orders averaged, differ by less than this."""
    concurrency: int = Field(default=4, ge=1)
    """Requests under way at the same time."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Requests started in a minute, retries included; no limit when not given."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds a server may stay silent before the request is given up and sent again."""
    retries: int = Field(default=8, ge=0)
    """How often a request is sent again after a time-out, a lost connection, HTTP 429 or 5xx."""
    backoff: float = Field(default=0.5, gt=0)
    """Seconds before the first retry; each further wait is twice as long, up to 30. A Retry-After is waited for."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest answer of a server, in tokens; a model that thinks aloud first needs more."""
    price_in: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens, in any currency."""
    price_out: float = Field(default=0.0, ge=0)
    """Price of a million answer tokens."""
    device: str = "auto"
    """Where a judge in this process runs."""
    token_budget: int = Field(default=2048, ge=16)
    """Tokens of one forward of a judge in this process: speed and memory only."""

    @model_validator(mode="after")
    def _key_goes_to_a_server(self) -> JudgeConfig:
        if self.key_env is not None and self.url is None:
            raise ValueError("key_env is for a judge behind a server; give its url")
        return self


class JudgeRewardConfig(JudgeConfig):
    """A judge's opinion as a reward."""

    guideline: str = "Prefer the answer that helps the person more."
    """The standard to judge by."""
    ask: Literal["grade", "compare"] = "grade"
    """`grade` is the expected grade, 1 to 5; `compare` the mean chance, 0 to 1, to be better than the prompt's other
    responses, each pair asked about both ways round."""


class ConstitutionConfig(Section):
    """Principles, written down."""

    path: str
    """A TOML file of `[[principle]]` tables with `name`, `critique`, `revise` and `compare`, or `demo:kindness`."""


class CalibrationConfig(Section):
    """A judge is measured against people before its labels are let out."""

    path: str
    """A preference store (SQLite file) in which people voted on some of the same responses."""
    min_agreement: float = Field(default=0.4, ge=-1, le=1)
    """Krippendorff's α between the judge and the majority of people below which nothing is exported."""
    min_pairs: int = Field(default=20, ge=2)
    """Pairs that both must have judged."""
