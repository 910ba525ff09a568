"""The frozen copy a policy is tethered to."""

from __future__ import annotations

import copy

from tether.models.role import Role


def frozen(role: Role) -> Role:
    """A deep copy of `role` without gradients, which shares no tensor with it and never leaves eval mode."""
    twin = copy.deepcopy(role)
    twin.requires_grad_(False)
    twin.dropout = False
    return twin.eval()
