"""What every algorithm that learns from its own samples says: the reward, the tether, and how responses are drawn."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from tether.config.sections import SamplingConfig, Section, TrainSection

FUNCTION = re.compile(r"(?!stage:)[\w.]+:[\w.]+")
"""`module:function`, and not another stage."""


class KLConfig(Section):
    """The tether: how far from the reference costs how much."""

    use: Literal["shaping", "loss"] = "shaping"
    """`shaping` subtracts β·KL from each token's reward; `loss` adds β·KL to the objective and differentiates it."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Schulman's estimator of the per-token KL. For shaping only k1 has the right gradient (k2 and k3 hardly hold); as
    a loss, k2 has that of the next token's KL, k3 that of the reverse, k1 none."""
    beta: float = Field(default=0.05, ge=0)
    """Weight of the KL; the first one when `controller` is `adaptive`."""
    controller: Literal["fixed", "adaptive"] = "fixed"
    """`adaptive` steers β so that the KL per response settles at `target` (Ziegler et al. 2019, section 2.2)."""
    target: float = Field(default=6.0, gt=0)
    """Nats per response the adaptive controller aims at."""
    horizon: int = Field(default=10000, ge=1)
    """Responses over which the adaptive controller closes a full error."""
    start: Literal[0, "any"] = 0
    """0: the run must start with policy and reference equal, and the self-test refuses if they are not."""


class RewardTerm(Section):
    """One of several rewards."""

    use: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """`stage:NAME` or folder of a reward model (a list: an ensemble), `module:function`, a verifier or `judge`."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What it is logged as (`reward/part/NAME`); the last part of `use` when not given."""
    weight: float = 1.0
    """Factor of its score in the sum; may be negative."""
    ensemble: Literal["mean", "min", "lower"] = "lower"
    """How the scores of a list of reward models, or of their several heads, become one; `lower` is their mean −
    `spread_penalty` · their deviation."""
    spread_penalty: float = Field(default=1.0, ge=0)
    """λ of the ensemble `lower`."""
    steps: Literal["min", "product", "last"] | None = None
    """For a process reward model: how the scores of a response's steps become one."""
    step_delimiter: str = Field(default="\n", min_length=1)
    """What ends a step, for a process reward model."""
    dense: bool = False
    """Pay a process reward model's score step by step, not at the end, where the algorithm has a value function."""
    options: dict[str, Any] = {}
    """Settings of a verifier or of the judge; see [rewards](../rewards.md)."""

    @model_validator(mode="after")
    def _steps_of_one_model(self) -> RewardTerm:
        if self.dense and self.steps is None:
            raise ValueError("dense = true pays for steps: say with `steps` how their scores become one")
        if self.steps is not None and (not isinstance(self.use, str) or self.options):
            raise ValueError("`steps` is for one process reward model")
        if self.options and not isinstance(self.use, str):
            raise ValueError("`options` are of one verifier or judge, not of a list")
        return self

    @property
    def label(self) -> str:
        """The name it goes by in the log.

        >>> RewardTerm(use="stage:reward").label, RewardTerm(use="my.rewards:short").label
        ('reward', 'short')
        """
        first = self.use if isinstance(self.use, str) else self.use[0]
        return self.name or re.sub(r"[^\w.-]", "_", re.split(r"[:/]", first.rstrip("/"))[-1]) or "reward"


def _names_differ(reward: str | tuple[RewardTerm, ...]) -> str | tuple[RewardTerm, ...]:
    labels = [] if isinstance(reward, str) else [term.label for term in reward]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"two rewards are called '{twice[0]}'; give each a `name` of its own")
    return reward


Terms = Annotated[tuple[RewardTerm, ...], Field(strict=False, min_length=1)]
Reward = Annotated[str | Terms, AfterValidator(_names_differ)]
"""What a recipe may say of a reward: one name, or several with weights."""


def as_terms(reward: str | tuple[RewardTerm, ...]) -> tuple[RewardTerm, ...]:
    """A reward as a list of terms, whichever way it was said.

    >>> [term.label for term in as_terms("stage:reward")]
    ['reward']
    """
    return (RewardTerm(use=reward),) if isinstance(reward, str) else reward


class PolicySection(TrainSection):
    """What every stage that samples from the policy it trains says."""

    reward: Reward
    """What to maximise: `stage:NAME` or folder of a reward model, `module:function` with TRL's signature, a verifier's
    name, or a list of such tables with weights."""
    normalise: Literal["none", "terms", "sum"] = "none"
    """Bring scores to mean 0 and deviation 1 among a prompt's responses (among all, with one response a prompt): each
    of several rewards before its weight, or their sum."""
    reference: str | None = None
    """The policy the KL is measured to; `model` when not given."""
    sampling: SamplingConfig = SamplingConfig()
    """How responses are drawn. top_k and top_p must be off."""
    num_responses: int = Field(default=1, ge=1)
    """Responses sampled for each prompt."""
    kl: KLConfig = KLConfig()
    """The tether to the reference."""
    missing_end: Literal["none", "penalty", "replace"] = "none"
    """For a response that did not end its turn: nothing, `missing_end_value` subtracted, or it replaces the score."""
    missing_end_value: float = 1.0
    """The penalty or the replacement."""
    overlong_buffer: int = Field(default=0, ge=0)
    """Tokens before `sampling.max_new_tokens` over which a penalty grows to `overlong_penalty` (DAPO, eq. 13)."""
    overlong_penalty: float = Field(default=1.0, ge=0)
    """Subtracted from the score of a response of full length; less within the buffer."""
    eval_reward: str | None = None
    """What held-out answers are scored by beside the reward: something the policy is not trained on."""

    @model_validator(mode="after")
    def _samples_its_own_distribution(self) -> PolicySection:
        if self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError(
                "sampling.top_k and sampling.top_p change the sampled distribution: leave them at 0 and 1 here"
            )
        if self.normalise != "none" and any(term.dense for term in self.terms):
            raise ValueError("normalise puts whole scores on one scale, so no reward may be dense with it")
        if self.overlong_buffer >= self.sampling.max_new_tokens:
            raise ValueError(
                f"overlong_buffer = {self.overlong_buffer} must be below sampling.max_new_tokens = "
                f"{self.sampling.max_new_tokens}"
            )
        if self.train.keep == "best" and self.eval_reward is None:
            raise ValueError(
                "train.keep = 'best' needs eval_reward: the best checkpoint is never chosen by the training reward"
            )
        return self

    @property
    def terms(self) -> tuple[RewardTerm, ...]:
        """The rewards as a list, whichever way they were said."""
        return as_terms(self.reward)
