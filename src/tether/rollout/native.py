"""The native sampler: runs the weights that are being trained, so there is nothing to sync.

A prompt is read once and its cache copied for its K samples. Finished rows leave the batch and waiting samples take
their place. The log-probs are those of the same model in the same precision, so the ratio before an update is 1.

Parts: `draws` turns logits into tokens, `caches` holds the rows. Shapes: `B` rows, `S` samples, `V` vocabulary.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tether.config import SamplingConfig
from tether.errors import InputError
from tether.models.role import Role
from tether.rollout.caches import Cache, Kind, Prefill, make_cache, probe
from tether.rollout.draws import draw, sample_keys, uniforms
from tether.types import Group, Prompt, Response

if TYPE_CHECKING:
    from tether.data.template import Template

log = logging.getLogger(__name__)

PREFILL_TOKENS = {"cpu": 1024}
"""Cells of one prefill, pads included: beyond it a CPU's caches overflow and nothing is won."""
PREFILL_TOKENS_ELSEWHERE = 16384


class NativeSampler:
    """Samples from `role` as it is now; `policy_version` is written on every response.

    Continuous batching where the model's cache allows it, else batches of prompts of one length; the same samples.
    """

    def __init__(self, role: Role, template: Template, params: SamplingConfig) -> None:
        self.role = role
        self.template = template
        self.params = params
        self.policy_version = 0
        self._kind: Kind | None = None

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], k: int, *, seed: int, greedy: bool = False) -> list[Group]:
        """K responses for each prompt, in the order of `prompts`, each with its tokens' log-probs at the temperature.

        A sample is a function of (weights, seed, prompt tokens, its number, how often the prompt came before).
        A response ends with a stop token (`ended`), or at `max_new_tokens` or the model's context (not `ended`).
        Raises InputError for an empty prompt and for one that leaves no room in the context.
        """
        if not prompts or k < 1:
            return [Group(prompt) for prompt in prompts]
        limits = [self._room(prompt, i) for i, prompt in enumerate(prompts)]
        with _dropout_off(self.role):
            if self._kind is None:
                self._kind, reason = probe(self.role)
                if reason:
                    log.warning("sampling is slower than it could be with this model (%s): %s", self._kind, reason)
            table = _Table.of(prompts, limits, k, seed, self.role.device)
            self._decode(table, prompts, k, greedy)
        return self._groups(table, prompts, k)

    def _room(self, prompt: Prompt, index: int) -> int:
        """How many tokens a response to it may have."""
        name = prompt.meta.get("id", f"number {index}")
        if not prompt.token_ids:
            raise InputError(f"prompt {name} has no tokens; a response needs at least one token to follow")
        room = self.role.max_tokens - len(prompt.token_ids)
        if room < 1:
            raise InputError(
                f"prompt {name} has {len(prompt.token_ids)} tokens, which leaves no room for a response in the model's "
                f"context of {self.role.max_tokens}; a prompt may have {self.role.max_tokens - 1} at most"
            )
        return min(room, self.params.max_new_tokens)

    def _decode(self, table: _Table, prompts: Sequence[Prompt], k: int, greedy: bool) -> None:
        """Fill the table."""
        most = min(self.params.batch_size, len(prompts) * k)
        assert self._kind is not None
        cache = make_cache(self.role, most, self._kind)
        queue = _Queue(cache, prompts, k, most, self.role.device.type)
        stops = torch.tensor(sorted(self.template.stop_ids), dtype=torch.int64, device=self.role.device)
        sample = torch.empty(0, dtype=torch.int64, device=self.role.device)  # (B,) which sample each row is
        logits = None  # (B, V)
        while True:
            for fresh, fresh_logits in queue.admit():
                sample = torch.cat([sample, fresh])
                logits = fresh_logits if logits is None else torch.cat([logits, fresh_logits])
            if logits is None:
                return
            step = table.lengths[sample]
            uniform = None if greedy else uniforms(table.keys[sample], step)
            tokens, logprobs = draw(logits, uniform, self.params)
            table.tokens[sample, step] = tokens
            table.logprobs[sample, step] = logprobs
            table.lengths[sample] = step + 1
            ended = (tokens.unsqueeze(-1) == stops).any(-1)
            table.ended[sample] = ended
            done = (ended | (step + 1 >= table.limits[sample])).tolist()
            if any(done):
                rows = _closed_up(done)
                cache.keep(rows)
                index = torch.tensor(rows, dtype=torch.int64, device=sample.device)
                sample, tokens = sample[index], tokens[index]
            logits = cache.step(tokens) if len(sample) else None

    def _groups(self, table: _Table, prompts: Sequence[Prompt], k: int) -> list[Group]:
        lengths, ended = table.lengths.tolist(), table.ended.tolist()
        longest = max(lengths)
        tokens, logprobs = table.tokens[:, :longest].tolist(), table.logprobs[:, :longest].tolist()
        broken = (~table.logprobs.isfinite()).any(-1).tolist()
        groups = []
        for i, prompt in enumerate(prompts):
            responses = []
            for s in range(i * k, (i + 1) * k):
                if broken[s]:
                    name = prompt.meta.get("id", f"number {i}")
                    raise FloatingPointError(f"the policy gives no finite probabilities after prompt {name}")
                ids = tuple(tokens[s][: lengths[s]])
                responses.append(
                    Response(
                        token_ids=ids,
                        text=self.template.decode(ids[:-1] if ended[s] else ids),
                        ended=ended[s],
                        logprobs=tuple(logprobs[s][: lengths[s]]),
                        policy_version=self.policy_version,
                    )
                )
            groups.append(Group(prompt, tuple(responses)))
        return groups


class _Table(NamedTuple):
    """All samples of a call, on the device; read back once at the end."""

    keys: Tensor  # (S,) of the random streams
    limits: Tensor  # (S,) most tokens
    lengths: Tensor  # (S,) tokens so far
    ended: Tensor  # (S,) bool
    tokens: Tensor  # (S, longest)
    logprobs: Tensor  # (S, longest)

    @classmethod
    def of(cls, prompts: Sequence[Prompt], limits: Sequence[int], k: int, seed: int, device: torch.device) -> _Table:
        count, longest = len(prompts) * k, max(limits)
        return cls(
            sample_keys(prompts, k, seed).to(device),
            torch.tensor(limits, device=device).repeat_interleave(k),
            torch.zeros(count, dtype=torch.int64, device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
            torch.zeros(count, longest, dtype=torch.int64, device=device),
            torch.zeros(count, longest, device=device),
        )


class _Queue:
    """Samples that wait for a row: prompts longest first, each read once; the samples of one that was read go first."""

    def __init__(self, cache: Cache, prompts: Sequence[Prompt], k: int, most: int, device_type: str) -> None:
        self.cache = cache
        self.prompts = prompts
        self.k = k
        self.most = most
        self.tokens = PREFILL_TOKENS.get(device_type, PREFILL_TOKENS_ELSEWHERE)
        # Sorting puts like lengths side by side, and is what `SlotCache` asks for.
        self.unread = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i].token_ids)))
        self.read: Prefill | None = None
        self.waiting: deque[tuple[int, int]] = deque()  # (prompt within `read`, sample)

    def admit(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples (n,) and logits (n, V) of the rows just added, while there is room."""
        free = self.most - self.cache.num_rows
        # A prefill is worth its launch for a handful of rows; one row alone waits for company.
        if self.cache.num_rows and (self.cache.same_length or free < max(1, self.most // 8)):
            return
        while free and (self.waiting or self.unread):
            if not self.waiting:
                self._prefill(free)
            assert self.read is not None
            pairs = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
            index = [prompt for prompt, _ in pairs]
            self.cache.admit(self.read, index)
            device = self.read.logits.device
            yield (
                torch.tensor([sample for _, sample in pairs], device=device),
                self.read.logits[torch.tensor(index, device=device)],
            )
            if not self.waiting:
                self.read = None
            free -= len(pairs)
            if self.cache.same_length:
                return

    def _prefill(self, free: int) -> None:
        """Read as many prompts as have samples for the free rows, within the budget of tokens."""
        longest = len(self.prompts[self.unread[0]].token_ids)
        chosen: list[int] = []
        while self.unread and len(chosen) * self.k < free:
            length = len(self.prompts[self.unread[0]].token_ids)
            too_much = (len(chosen) + 1) * longest > self.tokens
            if chosen and (too_much or (self.cache.same_length and length != longest)):
                break
            chosen.append(self.unread.popleft())
        self.read = self.cache.prefill([self.prompts[i].token_ids for i in chosen])
        self.waiting.extend((n, i * self.k + sample) for n, i in enumerate(chosen) for sample in range(self.k))


def _closed_up(done: Sequence[bool]) -> list[int]:
    """Rows that go on, the last of them moved into the places of those that are done: the fewest moves."""
    going = [row for row, finished in enumerate(done) if not finished]
    places = len(going)
    spare = [row for row in going if row >= places]
    return [spare.pop() if done[place] else place for place in range(places)]


@contextmanager
def _dropout_off(role: Role) -> Iterator[None]:
    """Eval mode inside; the modules that were in training mode are again afterwards."""
    training = [module for module in role.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
