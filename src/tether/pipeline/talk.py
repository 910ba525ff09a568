"""Talking to a checkpoint: prompts from the command line, or a conversation in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from tether.config import SamplingConfig
from tether.data.template import Template
from tether.models.load import load_policy
from tether.pipeline.place import model_at
from tether.rollout.native import NativeSampler
from tether.types import Message, Prompt


class Speaker:
    """A checkpoint that answers."""

    def __init__(self, model: str, *, temperature: float, top_p: float, max_new_tokens: int) -> None:
        """`model` is `base`, a folder (a stage's artifact too) or a hub id. Raises InputError for anything else."""
        path = model_at(model)
        self.template = Template.load(path)
        self.role = load_policy(path)
        params = SamplingConfig(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
        self.sampler = NativeSampler(self.role, self.template, params)

    def prompt(self, turns: Sequence[Message]) -> Prompt:
        """A conversation as a prompt; the last turn alone for a model without a chat template."""
        chat = self.template.tokenizer.chat_template is not None
        return self.template.prompt(list(turns) if chat else turns[-1]["content"], {})

    def reply(self, turns: Sequence[Message], seed: int) -> str:
        """One answer to a conversation; the oldest turns are left out when it outgrows the context."""
        turns = list(turns)
        prompt = self.prompt(turns)
        while len(prompt.token_ids) + self.sampler.params.max_new_tokens > self.role.max_tokens and len(turns) > 1:
            turns = turns[2:]
            prompt = self.prompt(turns)
        return self.sampler.generate([prompt], 1, seed=seed)[0].responses[0].text


def sample(
    model: str, prompts: Sequence[str], *, k: int, temperature: float, top_p: float, max_new_tokens: int, seed: int
) -> list[dict[str, str]]:
    """K replies to each prompt: rows of `prompt` and `response`."""
    speaker = Speaker(model, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    asked = [speaker.prompt([{"role": "user", "content": text}]) for text in prompts]
    groups = speaker.sampler.generate(asked, k, seed=seed)
    return [{"prompt": t, "response": r.text} for t, g in zip(prompts, groups, strict=True) for r in g.responses]


def chat(model: str, *, temperature: float, top_p: float, max_new_tokens: int, seed: int) -> None:
    """A conversation on the terminal, until an empty line or the end of input."""
    speaker = Speaker(model, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    turns: list[Message] = []
    while True:
        try:
            said = input("you> ").strip()
        except EOFError:
            said = ""
        if not said:
            return
        turns.append({"role": "user", "content": said})
        turns.append({"role": "assistant", "content": speaker.reply(turns, seed + len(turns))})
        print(f"model> {turns[-1]['content']}", flush=True)
