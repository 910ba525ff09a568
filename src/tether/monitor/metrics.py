"""Every number a run logs: what it means, what is healthy, what to do when it isn't. The docs and the report read this.

All are over real response tokens (no padding exists) unless the line says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Metric(NamedTuple):
    """One row of the table. A name that ends in `/*` stands for every name with that beginning."""

    name: str
    meaning: str
    healthy: str
    when_not: str
    label: str
    """What a chart calls it."""


_ROWS = (
    Metric(
        "reward/proxy",
        "Mean score of the sampled responses by the reward the policy is trained on.",
        "Rises, ever more slowly. It says nothing alone: read it against `eval/gold` and `kl/ref`.",
        "Flat: raise the learning rate or lower β. Rising while `eval/gold` falls: the reward model is being gamed; "
        "stop earlier, raise β, or collect new preferences.",
        "Proxy reward",
    ),
    Metric(
        "reward/std",
        "Standard deviation of the scores within an iteration.",
        "Well above zero; it may shrink slowly.",
        "Zero: every response scores the same and nothing can be learnt; check the reward, or sample hotter.",
        "Spread of rewards",
    ),
    Metric(
        "reward/part/*",
        "Mean score of the sampled responses by one of several rewards, before its weight.",
        "Each rises, or holds.",
        "One rises while another falls: they pull apart, and the cheaper one is being gamed; change the weights.",
        "Reward",
    ),
    Metric(
        "reward/shaped",
        "Mean return of a response: its score minus β times its KL, penalties included. What is really maximised.",
        "Rises.",
        "Falling while `reward/proxy` rises: the KL term dominates; lower β or the learning rate.",
        "Shaped reward",
    ),
    Metric(
        "kl/ref",
        "Mean KL of the policy to the reference, in nats a response (k1: the summed log-ratio of its tokens).",
        "0 at the first step, then grows slowly; a few nats for short replies.",
        "Growing by whole nats a step: lower the learning rate or raise β. Clearly negative: "
        "sampling and training disagree "
        "about log-probs (temperature, logits processors).",
        "KL to the reference",
    ),
    Metric(
        "kl/beta",
        "Weight β of the KL term.",
        "Constant, or settling when it is adaptive.",
        "Climbing without end: the KL target is too small for this learning rate.",
        "KL weight β",
    ),
    Metric(
        "reward/zero_spread",
        "Share of the sampled prompts whose responses all score the same.",
        "Below a half.",
        "Rising: prompts are too easy or too hard, or the reward is too coarse; change the prompts, sample hotter or "
        'more, or set `zero_spread = "resample"`.',
        "Groups without spread",
    ),
    Metric(
        "rollout/groups",
        "Prompts sampled in the iteration, those drawn again included.",
        "`batch_size`; with resampling up to a few times that.",
        "At its limit every step: too few prompts tell answers apart; see `reward/zero_spread`.",
        "Prompts sampled",
    ),
    Metric(
        "policy/loss",
        "The policy objective, with its sign turned.",
        "Near 0 and noisy: advantages are centred. It need not fall. (REINFORCE and CISPO log −A·log π: its size says "
        "little.)",
        "Far from 0: advantages are not whitened, or the ratio has exploded.",
        "Policy loss",
    ),
    Metric(
        "policy/ptx_loss",
        "Mean negative log-likelihood a token of the pretraining text (PPO-ptx), in nats.",
        "Stays near where it started.",
        "Rising: the policy forgets; raise `ptx.coef`. Falling fast: the mix outweighs the reward; lower it.",
        "Pretraining loss",
    ),
    Metric(
        "policy/clip_frac",
        "Share of tokens whose ratio left the clip range in the direction its advantage pushes (GSPO: all tokens of a "
        "response together; CISPO: tokens whose weight was capped).",
        "0.01 to 0.2; exactly 0 with one optimiser step a batch.",
        "Above 0.3: fewer mini-epochs or a lower learning rate. Always 0 with several: the policy hardly moves.",
        "Clipped tokens",
    ),
    Metric(
        "policy/approx_kl",
        "KL between the policy that sampled and the one being updated, in nats a token (k3).",
        "Below about 0.02.",
        "Larger: the updates are too big for one batch; lower the learning rate or the mini-epochs.",
        "KL of the update",
    ),
    Metric(
        "policy/ratio",
        "Mean ratio π/π_old of the tokens.",
        "1 before the first update, then within a few hundredths of it.",
        "Not 1 before an update: sampler and trainer disagree. Far from 1: lower the learning rate.",
        "Mean ratio",
    ),
    Metric(
        "policy/ratio_max",
        "Largest ratio π/π_old of a token in the step.",
        "1 before the first update, then below about 3.",
        "Not 1 before an update: sampler and trainer disagree. Huge: lower the learning rate.",
        "Largest ratio",
    ),
    Metric(
        "policy/entropy",
        "Mean entropy of the distributions the tokens were drawn from, in nats.",
        "Falls gently.",
        "Collapsing towards 0: replies will repeat; raise β, add an entropy bonus, stop earlier. "
        "Rising: the policy is unlearning.",
        "Entropy",
    ),
    Metric(
        "value/loss",
        "Clipped squared error of the value function against the returns.",
        "Falls, then follows the reward's scale.",
        "Growing: lower the value's learning rate, or whiten the rewards.",
        "Value loss",
    ),
    Metric(
        "value/clip_frac",
        "Share of tokens whose new value left the clip range around the old one.",
        "Below 0.2.",
        "Higher: the value function chases its target; lower its learning rate or widen the clip.",
        "Clipped values",
    ),
    Metric(
        "value/explained_variance",
        "Share of the returns' variance that the value function predicts: 1 - Var(return - value) / Var(return).",
        "Climbs from about 0 towards 0.5 or more.",
        "Below 0: worse than a constant; train the value longer, or start it from the reward model.",
        "Explained variance",
    ),
    Metric(
        "rollout/length",
        "Mean tokens of a sampled response, the end-of-turn token included.",
        "Stays near the start policy's, unless length is what is asked for.",
        "Drifting steadily: the reward likes length (or brevity); check it with a length-matched comparison.",
        "Reply length",
    ),
    Metric(
        "rollout/ended",
        "Share of responses that closed their turn within the token limit.",
        "High and not falling.",
        "Falling: give a missing end-of-turn a penalty, raise the limit, or look at the samples.",
        "Replies that end",
    ),
    Metric(
        "rollout/distinct_2",
        "Different pairs of neighbouring tokens, as a share of all of them, over an iteration's responses.",
        "Stays above about 60 % of where it began.",
        "Falling: the policy says the same to everybody; raise β, stop earlier.",
        "Variety of word pairs",
    ),
    Metric(
        "sft/loss",
        "Mean negative log-likelihood of the demonstrated response tokens, in nats.",
        "Falls; the held-out loss falls with it.",
        "Held-out loss turns up: stop there, fewer epochs. Flat: raise the learning rate; see the "
        "decoded sample in the data report.",
        "Loss",
    ),
    Metric(
        "lm/loss",
        "Mean negative log-likelihood of all tokens, in nats.",
        "Falls, ever more slowly.",
        "Jumping up: lower the learning rate or lengthen the warm-up.",
        "Loss",
    ),
    Metric(
        "rm/loss",
        "Bradley–Terry negative log-likelihood of the preferences; a coin scores ln 2 = 0.693.",
        "Falls below 0.69; the held-out loss with it.",
        "Stuck at 0.693: responses are identical after truncation, or the head learns nothing. "
        "Held-out loss rising: one epoch is enough.",
        "Loss",
    ),
    Metric(
        "rm/accuracy",
        "Share of comparisons in which the preferred response scores higher.",
        "Above 0.6; more than the annotators agree with each other is not to be had.",
        "Training far above held-out: memorised; fewer epochs, more data. At 0.5: check which side is `chosen`.",
        "Accuracy",
    ),
    Metric(
        "rm/margin",
        "Mean score of the preferred minus the other response.",
        "Positive, growing, then flat.",
        "Growing without end while the held-out accuracy stands: overconfident; fewer epochs.",
        "Margin",
    ),
    Metric(
        "rm/mean",
        "Mean score over all responses.",
        "Near 0, or constant.",
        "Drifting: scores are only known up to a constant; centre them before RL.",
        "Mean score",
    ),
    Metric(
        "optim/lr",
        "Learning rate of the step.",
        "The schedule you asked for.",
        "Not what you expect: `warmup` and `schedule` are shares of the steps of this stage.",
        "Learning rate",
    ),
    Metric(
        "optim/steps",
        "Optimiser steps taken in the iteration.",
        "Mini-epochs times mini-batches.",
        "Fewer: the limit on `policy/approx_kl` ended the iteration early; if always, lower the learning rate.",
        "Optimiser steps",
    ),
    Metric(
        "optim/grad_norm/*",
        "Global norm of a role's gradient, before clipping.",
        "Same order of magnitude throughout.",
        "Always far above `max_grad_norm`: lower the learning rate. 0: nothing reaches the role. "
        "NaN: see the note of that step.",
        "Gradient norm",
    ),
    Metric(
        "eval/loss",
        "The training loss on held-out examples.",
        "Falls with the training loss.",
        "Rising while the training loss falls: overfitting; the best checkpoint is behind you.",
        "Held-out loss",
    ),
    Metric(
        "eval/accuracy",
        "Share of held-out comparisons in which the preferred response scores higher.",
        "Above 0.6, and near the training accuracy.",
        "Near 0.5: more or cleaner preferences; look at the annotators' agreement.",
        "Held-out accuracy",
    ),
    Metric(
        "eval/margin",
        "Mean score of the preferred minus the other response, on held-out comparisons.",
        "Positive.",
        "Shrinking while `rm/margin` grows: memorised; fewer epochs.",
        "Held-out margin",
    ),
    Metric(
        "eval/mean",
        "Mean score over the responses of held-out comparisons.",
        "Near `rm/mean`.",
        "Elsewhere: the held-out data is of another kind.",
        "Held-out mean score",
    ),
    Metric(
        "eval/proxy",
        "Mean training reward of the answers to the held-out prompts.",
        "Rises together with `eval/gold`.",
        "Rising alone: over-optimisation.",
        "Held-out proxy reward",
    ),
    Metric(
        "eval/gold",
        "Mean score of the answers to the held-out prompts by something the policy was not trained on.",
        "Rises. The best checkpoint is chosen by it.",
        "Falling while `reward/proxy` rises: over-optimisation; take an earlier checkpoint.",
        "Gold score",
    ),
    Metric(
        "eval/win_rate",
        "Share of held-out prompts whose answer is preferred to the start policy's; ties count half.",
        "Above 0.5 with its whole interval.",
        "Interval touches 0.5: no gain shown; more prompts, or more training.",
        "Win rate",
    ),
    Metric(
        "eval/kl",
        "Mean KL of the policy to the reference on held-out prompts, in nats a response.",
        "As small as the gain allows.",
        "Large for little gain: raise β.",
        "Held-out KL",
    ),
    Metric(
        "eval/distinct_1",
        "Different tokens, as a share of all of them, over the held-out answers.",
        "Stays near the start policy's.",
        "Falling: fewer words carry everything; see `eval/distinct_2`.",
        "Variety of words",
    ),
    Metric(
        "eval/distinct_2",
        "Different pairs of neighbouring tokens, as a share of all of them, over the held-out answers.",
        "Above 60 % of the start policy's.",
        "Below: collapsed; take an earlier checkpoint or raise β.",
        "Variety of word pairs",
    ),
    Metric(
        "eval/length",
        "Mean tokens of a held-out answer.",
        "Near the start policy's.",
        "Much longer or shorter: the reward is partly a length meter.",
        "Held-out length",
    ),
    Metric(
        "eval/ended",
        "Share of held-out answers that closed their turn within the token limit.",
        "High and not falling.",
        "Falling: see `rollout/ended`.",
        "Held-out replies that end",
    ),
)

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
"""Name → row, in the order in which a report shows them."""

ALSO = {
    "lm/loss": "eval/loss",
    "sft/loss": "eval/loss",
    "rm/loss": "eval/loss",
    "rm/accuracy": "eval/accuracy",
    "rm/margin": "eval/margin",
    "rm/mean": "eval/mean",
    "reward/proxy": "eval/proxy",
    "kl/ref": "eval/kl",
    "rollout/length": "eval/length",
    "rollout/ended": "eval/ended",
    "rollout/distinct_2": "eval/distinct_2",
}
"""Training metric → the same thing measured on held-out data, drawn on the same chart."""


def described(name: str) -> Metric | None:
    """The row of `name`, or of the `…/*` that covers it."""
    if name in METRICS:
        return METRICS[name]
    return next((row for row in _ROWS if row.name.endswith("/*") and name.startswith(row.name[:-1])), None)


def undocumented(names: Iterable[str]) -> list[str]:
    """Those of `names` that the table says nothing about, sorted."""
    return sorted(name for name in set(names) if described(name) is None)


def label(name: str) -> str:
    """What a chart calls `name`: its row's label, and the part a `*` stands for."""
    row = described(name)
    if row is None:
        return name
    return f"{row.label}, {name[len(row.name) - 1 :]}" if row.name.endswith("/*") else row.label


def number(value: float) -> str:
    """`value` for reading: three significant digits, a true minus sign, powers of ten only where they are shorter.

    >>> [number(x) for x in (0.12345, -3.0, 12345.6, 3e-5, 0)]
    ['0.123', '−3', '12,346', '3e−5', '0']
    """
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "∞", "-inf": "−∞"}[str(value)]
    size = abs(value)
    if value == 0 or 1e-3 <= size < 999.5:
        text = f"{value:.3g}"
    elif 999.5 <= size < 1e6:
        text = f"{value:,.0f}"
    else:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return text.replace("-", "−")
