"""A run that never happened, in full: what a quickstart's report is made of, hostile text included."""

from __future__ import annotations

import math
import random

import pytest

from tether.monitor.lineage import Edge
from tether.monitor.report import RunReport, StageReport

HOSTILE = "<script>alert('pwned')</script><img src=x onerror=alert(1)>\"'</style></svg>&amp; \u202eevil\ud800\x07"

PROMPTS = [
    (
        "What did you do this weekend?",
        "i went to the beach with my family",
        "haha i went to the beach with my family , it was so nice !",
    ),
    ("Do you like cats or dogs?", "i have a dog", "i love them both haha , i have a dog and he is great"),
    ("I just lost my job.", "oh no . what happened ?", "oh no , i hope you find a great one soon !"),
    ("What's your favourite food?", "pizza", "i love pizza , what is your favorite ?"),
    ("It's raining again here.", "same here , i hate it", "haha nice , i love the rain it is so good !"),
    (HOSTILE, "you too", HOSTILE),
    ("Have you read any good books lately?", "not really no", "yes ! i love to read , it is so fun haha"),
    ("How old are you?", "", "i am 25 , nice to meet you !"),
]


def training(rng: random.Random, steps: int, every: dict) -> list[dict]:
    return [
        {"step": s, "kind": "train"} | {k: f(s / steps, rng) for k, f in every.items()} for s in range(1, steps + 1)
    ]


def noise(rng: random.Random, size: float) -> float:
    return rng.gauss(0, size)


SFT = {
    "sft/loss": lambda t, r: 2.6 + 1.5 * math.exp(-5 * t) + noise(r, 0.06),
    "optim/grad_norm/policy": lambda t, r: 0.9 + 0.4 * math.exp(-4 * t) + abs(noise(r, 0.1)),
    "optim/lr": lambda t, r: 3e-4 * min(1, t / 0.1) * (1 - t),
}
RM = {
    "rm/loss": lambda t, r: 0.58 + 0.11 * math.exp(-4 * t) + noise(r, 0.03),
    "rm/accuracy": lambda t, r: 0.72 - 0.2 * math.exp(-5 * t) + noise(r, 0.05),
    "rm/margin": lambda t, r: 0.9 * (1 - math.exp(-3 * t)) + noise(r, 0.08),
    "rm/mean": lambda t, r: noise(r, 0.05),
    "optim/grad_norm/reward": lambda t, r: 1.5 + abs(noise(r, 0.4)),
}
PPO = {
    "reward/proxy": lambda t, r: 0.1 + 1.9 * (1 - math.exp(-2.5 * t)) + noise(r, 0.08),
    "reward/std": lambda t, r: 0.9 - 0.3 * t + noise(r, 0.04),
    "reward/shaped": lambda t, r: 0.1 + 1.5 * (1 - math.exp(-2.5 * t)) + noise(r, 0.08),
    "kl/ref": lambda t, r: 7.2 * t**0.8 + noise(r, 0.2),
    "kl/beta": lambda t, r: 0.05 + 0.04 * t,
    "policy/loss": lambda t, r: noise(r, 0.02),
    "policy/entropy": lambda t, r: 3.4 - 1.6 * t + noise(r, 0.05),
    "policy/clip_frac": lambda t, r: abs(0.08 + noise(r, 0.03)),
    "policy/approx_kl": lambda t, r: abs(0.008 + noise(r, 0.002)),
    "value/loss": lambda t, r: 0.4 * math.exp(-2 * t) + abs(noise(r, 0.03)),
    "value/explained_variance": lambda t, r: 0.55 * (1 - math.exp(-4 * t)) + noise(r, 0.04),
    "rollout/length": lambda t, r: 11.5 + 2 * t + noise(r, 0.4),
    "rollout/ended": lambda t, r: min(1.0, 0.97 + noise(r, 0.01)),
    "optim/grad_norm/policy": lambda t, r: abs(0.6 + noise(r, 0.2)) if t != 0.5 else math.nan,
    "optim/grad_norm/value": lambda t, r: abs(2 + noise(r, 0.7)),
    "mine/own_number": lambda t, r: 1234.5 * t,
}
GOLD = (0.24, 0.43, 0.61, 0.70, 0.73, 0.66)


def ppo_events(rng: random.Random) -> list[dict]:
    events = training(rng, 30, PPO)
    for i, gold in enumerate(GOLD):
        t = i / 5
        events.append(
            {
                "step": 6 * i,
                "kind": "eval",
                "eval/proxy": 0.1 + 1.95 * (1 - math.exp(-2.5 * t)),
                "eval/kl": 7.2 * t**0.8,
                "eval/gold": gold,
                "eval/gold_low": gold - 0.05,
                "eval/gold_high": gold + 0.05,
                "eval/length": 11.5 + 2 * t,
                "eval/distinct_2": 0.52 - 0.26 * t,
            }
        )
        rows = [{"prompt": p, "answer": a if i < 3 else b, "proxy": 0.1 + t, "gold": gold} for p, a, b in PROMPTS]
        events.append({"step": 6 * i, "kind": "samples", "rows": rows})
    events.append({"step": 24, "kind": "alarm", "text": f"distinct-2 fell below 60 % of its start {HOSTILE}"})
    return events


@pytest.fixture(scope="session")
def run() -> RunReport:
    from tether.monitor.samples import gather_samples

    rng = random.Random(0)
    sft = training(rng, 300, SFT) + [
        {"step": s, "kind": "eval", "eval/loss": 2.75 + 1.3 * math.exp(-s / 60)} for s in range(0, 301, 60)
    ]
    rm = training(rng, 118, RM) + [
        {"step": s, "kind": "eval", "eval/loss": 0.62, "eval/accuracy": 0.69 - 0.19 * math.exp(-s / 30)}
        for s in (0, 59, 118)
    ]
    ppo = ppo_events(rng)
    data = {
        "format": "messages",
        "read": 2431,
        "kept": 2400,
        "truncated": 12,
        "dropped": {"over max_tokens": 24, "no response": 7, HOSTILE: 3},
        "duplicates": 5,
        "prompt_tokens": {"4-7": 210, "8-15": 905, "16-31": 1011, "32-63": 274},
        "response_tokens": {"2-3": 88, "4-7": 640, "8-15": 1120, "16-31": 552},
        "sample": f"<|user|>hello , how are you ?<|end|><|assistant|>⟦i am good , and you ?<|end|>⟧{HOSTILE}",
        "warnings": ["12 responses lost their end, and with it their end-of-turn token."],
    }
    return RunReport(
        title="quickstart",
        stages=[
            StageReport(
                "sft",
                "sft",
                "done",
                {"eval/loss": 2.76},
                sft,
                data,
                {"model": "base 91ab3c", "data": "demo:chitchat 5d0e77"},
                "a3f19c20bb41d7e6",
                74.2,
            ),
            StageReport("pairs", "sample", "done", {"pairs": 940}, key="0c77aa1f2be93d55", seconds=19.0),
            StageReport(
                "votes", "label", "done", {"judgements": 2820, "agreement": 0.41}, key="77f0e1c2d3b4a596", seconds=3.4
            ),
            StageReport("rm", "reward_model", "done", {"eval/accuracy": 0.69}, rm, None, {}, "b19e08d4c55a6f01", 38.8),
            StageReport(
                "ppo",
                "ppo",
                "done",
                {
                    "metrics": {"eval/gold": 0.66, "kl/ref": 7.2},
                    "layout": "tree (same numbers)",
                    "kept": {"deep": {"no": 1}},
                },
                ppo,
                None,
                {},
                "e2d4c6b8a0918273",
                151.7,
            ),
            StageReport("final", "evaluate", "cut", key="1f2e3d4c5b6a7988"),
        ],
        samples=gather_samples([("ppo", ppo)]),
        evaluation={
            "win_rate": {"value": 0.81, "low": 0.765, "high": 0.852, "n": 320, "against": "the SFT policy"},
            "gold": {"value": 0.66, "low": 0.61, "high": 0.71, "baseline": 0.24, "against": "the SFT policy"},
            "accuracy": {"value": 0.69, "low": 0.62, "high": 0.75, "n": 212},
            "kl": 7.2,
            "distinct_2": {"value": 0.26, "baseline": 0.52, "against": "the SFT policy"},
            "length": {"value": 13.5, "baseline": 11.5, "against": "the SFT policy"},
        },
        lineage=[
            Edge("base", "sft", "model", "91ab3c55d0e77f12"),
            Edge("demo:chitchat", "sft", "data", "5d0e77b3c4a81920"),
            Edge("sft", "pairs", "model"),
            Edge("demo:prompts", "pairs", "data", "8819aa02c3d4e5f6"),
            Edge("pairs", "votes", "responses"),
            Edge("sft", "rm", "model"),
            Edge("votes", "rm", "data"),
            Edge("sft", "ppo", "model"),
            Edge("rm", "ppo", "reward"),
            Edge("demo:prompts", "ppo", "data"),
            Edge("ppo", "final", "model"),
            Edge("sft", "final", "against"),
        ],
        environment={
            "tether": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "device": "cpu",
            "threads": 2,
            "platform": "Linux x86_64",
        },
        recipe='[run]\nname = "quickstart"\nseed = 1\n\n[[stage]]\nname = "sft"\nalgorithm = "sft"\nmodel = "base"\n'
        + f"# {HOSTILE}\n",
    )
