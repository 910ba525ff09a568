"""Judges: language models that say which of two answers is better, or how good one is.

A judge answers multiple-choice questions: a question and its options in, the probability of each option out.
`ModelJudge` (here) reads them off a model's log-probs; `ServerJudge` (judge_server.py) asks an OpenAI-compatible
server; `Journal` (journal.py) remembers what either said. Every comparison is asked both ways round, for language
models prefer a side (Zheng et al. 2023, "Judging LLM-as-a-judge", section 3.3).
Left out: reasons written before the verdict, and reference answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tether.data.template import Template
from tether.errors import InputError
from tether.models.plan import infer
from tether.models.role import Role
from tether.types import Group, Message

VERDICTS = ("A", "B", "C")
"""Options of a comparison: the first answer is better, the second is, neither is."""
_PORTION = 64  # questions of one call of the model: what a kill can cost


class Choice(NamedTuple):
    """What a judge says to one question, and what that took."""

    probs: tuple[float, ...] | None
    """Probability of each option, adding up to 1; None when the judge gave no answer that can be read."""
    problem: str | None = None
    """Why there is none."""
    tokens_in: int = 0
    tokens_out: int = 0
    tries: int = 1
    """Requests it took."""


class Judge(Protocol):
    """Something that answers multiple-choice questions."""

    @property
    def name(self) -> str:
        """Which model it is."""
        ...

    def choose(self, questions: Sequence[str], options: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """(index of the question, choice) as soon as each is known, in any order."""
        ...


class Comparison(NamedTuple):
    """Two answers to one conversation, in the order shown, and the standard to judge them by."""

    guideline: str
    messages: Sequence[Message]
    first: str
    second: str

    def question(self) -> str:
        """As the judge reads it."""
        return (
            f"{self.guideline}\n\n{_conversation(self.messages)}\n\n<answer_a>\n{self.first}\n</answer_a>\n\n"
            f"<answer_b>\n{self.second}\n</answer_b>\n\nWhich answer is better by the standard above? "
            "Choose A for the first, B for the second, or C if they are equally good."
        )


def both_ways(judge: Judge, asked: Sequence[Comparison]) -> list[tuple[float, float] | str]:
    """For each comparison P(first is better) + P(tie)/2 as shown and with the sides swapped, or why there is none.

    Both numbers are from the side of `first`: equal ones mean that the judge does not mind the order.
    """
    questions = [q for c in asked for q in (c.question(), c._replace(first=c.second, second=c.first).question())]
    said = _all(judge, questions, VERDICTS)
    found: list[tuple[float, float] | str] = []
    for shown, swapped in zip(said[::2], said[1::2], strict=True):
        if shown.probs is None or swapped.probs is None:
            found.append(shown.problem or swapped.problem or "no answer")
        else:
            found.append((shown.probs[0] + shown.probs[2] / 2, swapped.probs[1] + swapped.probs[2] / 2))
    return found


def grade(judge: Judge, guideline: str, asked: Sequence[tuple[Sequence[Message], str]], best: int = 5) -> list[Choice]:
    """How good each answer to its conversation is: the probabilities of the grades 1 to `best`."""
    questions = [
        f"{guideline}\n\n{_conversation(messages)}\n\n<answer>\n{answer}\n</answer>\n\nHow good is the answer by the "
        f"standard above? Choose a grade from 1 (worst) to {best} (best)."
        for messages, answer in asked
    ]
    return _all(judge, questions, [str(n) for n in range(1, best + 1)])


def _all(judge: Judge, questions: Sequence[str], options: Sequence[str]) -> list[Choice]:
    said = dict(judge.choose(questions, options))
    return [said[i] for i in range(len(questions))]


def _conversation(messages: Sequence[Message]) -> str:
    turns = "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)
    return f"<conversation>\n{turns}\n</conversation>"


def _messages(group: Group) -> Sequence[Message]:
    return group.prompt.messages or ({"role": "user", "content": group.prompt.text},)


@dataclass(frozen=True)
class ModelJudge:
    """A causal language model in this process: P(option) ∝ the model's probability of writing it as its answer."""

    role: Role
    template: Template
    name: str
    token_budget: int = 2048
    """Tokens of one forward: speed and memory only."""

    def choose(self, questions: Sequence[str], options: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """In portions, in order. A question longer than the model's context has no answer."""
        for start in range(0, len(questions), _PORTION):
            groups = [self._group(q, options) for q in questions[start : start + _PORTION]]
            sizes = [len(g.prompt.token_ids) + max(len(r.token_ids) for r in g.responses) for g in groups]
            fits = [size <= self.role.max_tokens for size in sizes]
            probs = iter(self._probs([group for group, fit in zip(groups, fits, strict=True) if fit], len(options)))
            for i, (group, fit) in enumerate(zip(groups, fits, strict=True)):
                tokens = len(group.prompt.token_ids)
                if fit:
                    yield start + i, Choice(tuple(next(probs).tolist()), tokens_in=tokens)
                else:
                    limit = self.role.max_tokens
                    yield start + i, Choice(None, f"{sizes[i]} tokens exceed the judge's context of {limit}")

    def _group(self, question: str, options: Sequence[str]) -> Group:
        """The options as K responses to the question."""
        asked = f"{question} Answer with one of {', '.join(options)} alone."
        if self.template.has_chat:
            prompt, space = self.template.prompt([{"role": "user", "content": asked}]), ""
        else:
            prompt, space = self.template.prompt(f"{asked}\n\nAnswer:"), " "
        # "1" is also how "10" starts: then the end of turn tells them apart.
        closed = any(a != b and b.startswith(a) for a, b in permutations(options, 2))
        return Group(prompt, tuple(self.template.respond(prompt, space + option, ended=closed) for option in options))

    def _probs(self, groups: Sequence[Group], num_options: int) -> Tensor:
        """(G, options)."""
        if not groups:
            return torch.zeros(0, num_options)
        logprobs = infer(self.role, groups, ("logprobs",), token_budget=self.token_budget).logprobs
        lengths = [r.num_trained for g in groups for r in g.responses]
        totals = torch.stack([part.sum() for part in logprobs.split(lengths)])
        return totals.view(len(groups), num_options).softmax(-1).cpu()


def _graded(judge: Judge, guideline: str, groups: Sequence[Group]) -> list[float]:
    pairs = [(_messages(g), r.text) for g in groups for r in g.responses]
    said = grade(judge, guideline, pairs)
    for choice, (messages, answer) in zip(said, pairs, strict=True):
        _refuse(choice.problem, messages, answer)
    return [sum(p * n for n, p in enumerate(choice.probs or (), start=1)) for choice in said]


def _compared(judge: Judge, guideline: str, groups: Sequence[Group]) -> list[float]:
    if any(len(g.responses) < 2 for g in groups):
        raise InputError("a judge that compares needs two responses or more to each prompt; set num_responses")
    pairs = [
        (group, a, b)
        for group in groups
        for a in range(len(group.responses))
        for b in range(a + 1, len(group.responses))
    ]
    said = both_ways(
        judge, [Comparison(guideline, _messages(g), g.responses[a].text, g.responses[b].text) for g, a, b in pairs]
    )
    won = {id(group): [0.0] * len(group.responses) for group in groups}
    for (group, a, b), leans in zip(pairs, said, strict=True):
        _refuse(leans if isinstance(leans, str) else None, _messages(group), group.responses[a].text)
        better = sum(leans) / 2 if not isinstance(leans, str) else 0.5
        won[id(group)][a] += better
        won[id(group)][b] += 1 - better
    return [total / (len(group.responses) - 1) for group in groups for total in won[id(group)]]


def _refuse(problem: str | None, messages: Sequence[Message], answer: str) -> None:
    if problem is not None:
        raise InputError(
            f"the judge gave no verdict on the answer {answer[:60]!r} to {messages[-1]['content'][:60]!r}: {problem}"
        )


ASK: Mapping[str, Callable[[Judge, str, Sequence[Group]], list[float]]] = {"grade": _graded, "compare": _compared}
"""How a scorer asks: `grade` is the expected grade, 1 to 5; `compare` the mean chance, 0 to 1, to be better than the
other responses to the same prompt."""


@dataclass(frozen=True)
class JudgeScorer:
    """Groups → (S,) float32: a judge's opinion as a reward.

    InputError when `ask` is unknown, when there is nothing to compare with, or where the judge gives no verdict.
    """

    judge: Judge
    guideline: str
    """The standard to judge by."""
    ask: str = "grade"
    """A row of `ASK`."""

    def __post_init__(self) -> None:
        if self.ask not in ASK:
            raise InputError(f"ask = {self.ask!r}: is none of {', '.join(ASK)}")

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return torch.tensor(ASK[self.ask](self.judge, self.guideline, groups), dtype=torch.float32)
