"""AdamW over a role's trainable weights, and the course of its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from tether.config import OptimConfig


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with decoupled decay (Loshchilov & Hutter 2019) on matrices; biases, norms and embeddings have none."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
            (decayed if matrix else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True
    )


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """The rate of iteration `step` (from 0) of `num_steps`: linear warm-up, then constant, linear or cosine."""
    warmup = config.warmup * num_steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, num_steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[
        config.schedule
    ]
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * shape)
