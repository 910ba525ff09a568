"""The frozen copy a policy is tethered to, and what it thinks of the data, computed once."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tether.models.plan import infer
from tether.models.role import Role
from tether.types import Group


def frozen(role: Role) -> Role:
    """A deep copy of `role` without gradients, which shares no tensor with it and never leaves eval mode."""
    twin = copy.deepcopy(role)
    twin.requires_grad_(False)
    twin.dropout = False
    return twin.eval()


def cache_folder() -> Path:
    """Where log-probs are kept between runs: `$TETHER_CACHE`, else `tether` in the user's cache folder."""
    own = os.environ.get("TETHER_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(home) / "tether"


class ReferenceTable:
    """The reference's log-probs of groups from the data, looked up by the groups' very tokens.

    `fill` computes those of a whole data set in one pass and keeps them on disk, named by the hash of everything they
    depend on: weights, tokens, temperature, and the way they are computed. So a second run, or one with other settings
    of the loss, does no forward of the reference at all, and has the same bits.
    """

    def __init__(self, role: Role, temperature: float = 1.0, token_budget: int = 1024) -> None:
        self.role, self.temperature, self.token_budget = role, temperature, token_budget
        self._known: dict[bytes, Tensor] = {}

    def fill(self, groups: Sequence[Group]) -> bool:
        """Knows all of `groups` from now on; true where that took forwards of the reference."""
        new = list({identity(g): g for g in groups if identity(g) not in self._known}.values())
        if not new:
            return False
        file = cache_folder() / "reference" / f"{self._name(new)}.safetensors"
        flat = _read(file, sum(r.num_trained for g in new for r in g.responses))
        computed = flat is None
        if flat is None:
            flat = self._compute(new).cpu()
            _write(file, flat)
        sizes = [sum(r.num_trained for r in g.responses) for g in new]
        for group, own in zip(new, torch.split(flat, sizes), strict=True):
            self._known[identity(group)] = own
        return computed

    def of(self, groups: Sequence[Group]) -> Tensor:
        """(N,) fp32 log-probs on the role's device; groups it was never filled with are computed, and not kept."""
        if any(identity(g) not in self._known for g in groups):
            return self._compute(groups)
        known = [self._known[identity(g)] for g in groups]
        return torch.cat([torch.empty(0), *known]).to(self.role.device)

    def _compute(self, groups: Sequence[Group]) -> Tensor:
        out = infer(self.role, groups, ("logprobs",), temperature=self.temperature, token_budget=self.token_budget)
        logprobs: Tensor = out.logprobs
        return logprobs

    def _name(self, groups: Iterable[Group]) -> str:
        state = hashlib.sha256()
        way = (self.temperature, self.token_budget, self.role.layout, self.role.device.type, torch.get_num_threads())
        state.update(repr((way, torch.__version__)).encode())
        for name, tensor in self.role.state_dict().items():
            state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for group in groups:
            state.update(identity(group))
        return state.hexdigest()[:32]


def identity(group: Group) -> bytes:
    """Hash of the tokens of a group, and of which of them count."""
    tokens = (group.prompt.token_ids, [(r.token_ids, r.trained) for r in group.responses])
    return hashlib.sha256(repr(tokens).encode()).digest()


def _read(file: Path, count: int) -> Tensor | None:
    """What is kept, if it is whole."""
    try:
        found = load_file(file)["logprobs"] if file.is_file() else None
    except (SafetensorError, OSError, KeyError):
        return None  # damaged: computed anew, and written over
    return found if found is not None and found.shape == (count,) else None


def _write(file: Path, logprobs: Tensor) -> None:
    """Under a temporary name, then renamed. A cache that cannot be written is no reason to stop a run."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logprobs": logprobs.contiguous()}, temporary)
        temporary.rename(file)
    except (OSError, SafetensorError):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
