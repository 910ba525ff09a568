"""From a stage's section to a `Run`: models, template, data, sampler, scorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tether.models.load import load_policy, load_scalar
from tether.models.probe import Layout
from tether.models.role import Role
from tether.types import RoleSpec

Resolve = Callable[[str], str]
"""A model as the recipe names it → a folder or hub id."""


def build_role(spec: RoleSpec, resolve: Resolve, *, device: str, dtype: str, layout: Layout, seed: int) -> Role:
    """Loads one role; frozen when it has no optimiser."""
    path = resolve(spec.model)
    if spec.kind == "policy":
        role = load_policy(
            path, device=device, dtype=dtype, layout=layout, value_head=spec.value_head, dropout=spec.dropout, seed=seed
        )
    else:
        # One head is also what is said where nothing is: then a saved model keeps as many as it has.
        heads = spec.num_heads if spec.num_heads > 1 else None
        options: dict[str, Any] = {"device": device, "dtype": dtype, "layout": layout, "dropout": spec.dropout}
        role = load_scalar(path, kind=spec.kind, num_heads=heads, seed=seed, **options)
    if spec.embedding_noise:
        add_embedding_noise(role, spec.embedding_noise)
    role.requires_grad_(spec.optim is not None)
    return role


def add_embedding_noise(role: Role, alpha: float) -> None:
    """NEFTune (Jain et al. 2023): uniform noise in ±α/√(T·d) on the embeddings (B, T, d) where there is gradient."""

    def noisy(module: nn.Module, inputs: object, output):  # type: ignore[no-untyped-def]
        if not output.requires_grad:
            return output
        _, length, width = output.shape
        return output + output.new_empty(output.shape).uniform_(-1, 1) * (alpha / (length * width) ** 0.5)

    role.hf.get_input_embeddings().register_forward_hook(noisy)
