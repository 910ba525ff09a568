"""Rewards from a trained reward model: its score of each response, read as the policy's tokens or as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from tether.data.template import Template
from tether.errors import InputError
from tether.models.plan import infer
from tether.models.role import Role
from tether.types import Group, Message, Prompt, Response


@dataclass(frozen=True)
class RewardModelScorer:
    """Groups → (S,) float32 scores, of several heads their mean. It reads the policy's token ids, so both must have the
    same tokenizer."""

    role: Role
    """The reward model."""
    token_budget: int = 1024
    """Tokens of one forward, prompts included: speed and memory only."""

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return self.heads(groups).mean(1)

    def heads(self, groups: Sequence[Group]) -> Tensor:
        """(S, H) the score of every head."""
        scores: Tensor = infer(self.role, groups, ("scores",), token_budget=self.token_budget).scores
        return scores.view(len(scores), -1)


@dataclass(frozen=True)
class TextScorer:
    """Groups → (S,) as `RewardModelScorer`, for a reward model with a tokenizer of its own: an encoder, another family.

    Texts are tokenised again: a conversation through the model's chat template, or without one as lines `role: words`
    (a single turn as its words alone); then the response, closed by the model's own end token if it ended. A prompt
    that is too long loses its start. What stands for the end token within a response's text is left out. Raises
    InputError where a response alone is longer than the model can read.
    """

    role: Role
    """The reward model."""
    template: Template
    """Its tokenizer."""
    between: str = ""
    """Text between prompt and response, such as `[SEP]` for a model that was trained on pairs of texts."""
    token_budget: int = 1024
    """Tokens of one forward, prompts included: speed and memory only."""

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return self.heads(groups).mean(1)

    def heads(self, groups: Sequence[Group]) -> Tensor:
        """(S, H) the score of every head."""
        return RewardModelScorer(self.role, self.token_budget).heads([self.read(group) for group in groups])

    def read(self, group: Group) -> Group:
        """The group in the reward model's own tokens, each response within its context."""
        prompt = self._prompt(group.prompt)
        responses = [self._response(prompt, response) for response in group.responses]
        longest = max((len(r.token_ids) for r in responses), default=0)
        begin = len(self.template.begin_ids)
        room = self.role.max_tokens - longest
        if room < max(begin, 1):
            raise InputError(
                f"a response is {longest} tokens long for the reward model, which reads {self.role.max_tokens} with "
                "the prompt; sample shorter ones"
            )
        ids = prompt.token_ids
        if len(ids) > room:
            ids = ids[:begin] + ids[len(ids) - room + begin :]
        return Group(replace(prompt, token_ids=ids), tuple(responses), group.labels)

    def _prompt(self, prompt: Prompt) -> Prompt:
        if prompt.messages and self.template.has_chat:
            return self.template.prompt(prompt.messages, prompt.meta)
        text = written(prompt.messages) if prompt.messages else prompt.text
        return self.template.prompt(text + self.between, prompt.meta)

    def _response(self, prompt: Prompt, response: Response) -> Response:
        end = self.template.decode([self.template.end_id], special=True)
        return self.template.respond(prompt, response.text.replace(end, ""), response.ended)


def written(messages: Sequence[Message]) -> str:
    """A conversation for a model that knows no turns.

    >>> turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    >>> written(turns), written(turns[1:])
    ('system: Be brief.\\nuser: Hi.', 'Hi.')
    """
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
