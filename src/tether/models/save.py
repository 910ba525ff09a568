"""A role as a plain Hugging Face folder, read back and compared before it takes its place."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tether.errors import InputError
from tether.models.layout import lay_out
from tether.models.load import DTYPES, SCALAR_HEAD, VALUE_HEAD, load_policy, load_scalar, quiet
from tether.models.role import Role
from tether.types import Group, Outputs, Prompt, Response

TOLERANCE = 1e-5
"""Largest difference between a role's outputs and those of what was read back."""


def save_role(role: Role, path: str | Path, tokenizer: Any = None) -> None:
    """Writes `role` (and its tokenizer) to the folder `path`, replacing what was there, all or nothing.

    A policy is a causal LM, its value head a file beside it; a reward or value model is a sequence classifier with one
    label a head, or its trunk and the heads' file where the architecture has no classifier. A classifier's
    `pad_token_id` is one that no response ends with: plain `transformers` takes the score at the last token that
    differs from it. (An encoder is told what is padding, and keeps its own.)

    Raises `InputError` where the folder cannot be written, `RuntimeError` where reading back gives other numbers.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _write(role, part, tokenizer)
        _compare(role, part)
        _replace(part, target)
    except OSError as error:
        raise InputError(f"model folder '{target}' cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(role: Role, folder: Path, tokenizer: Any) -> None:
    config = role.hf.config.get_text_config()
    kept = config.pad_token_id
    if role.kind != "policy" and not role.encoder:
        config.pad_token_id, tokenizer = _scoring_pad(config, tokenizer)
    try:
        with quiet():
            role.hf.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
    finally:
        config.pad_token_id = kept
    if role.scalar_head is not None:
        name = VALUE_HEAD if role.kind == "policy" else SCALAR_HEAD
        save_file({"weight": role.scalar_head.weight.detach().cpu().contiguous()}, folder / name)


def _scoring_pad(config: Any, tokenizer: Any) -> tuple[int, Any]:
    """A pad that is not an end of turn, and the tokenizer that pads with it.

    Another special token serves where the pad is the end of turn. Without one it is token 0, and the tokenizer keeps
    its pad: making an ordinary token special would change how text is read. Then batches must be padded left.
    """
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    special: list[int | None] = [config.pad_token_id]
    if tokenizer is not None:
        ends = [*ends, tokenizer.eos_token_id]
        special = [tokenizer.pad_token_id, config.pad_token_id, *tokenizer.all_special_ids]
    pad = next((i for i in special if i is not None and i not in ends and 0 <= i < config.vocab_size), None)
    if pad is None:
        return next(i for i in range(len(ends) + 1) if i not in ends), tokenizer
    if tokenizer is not None and tokenizer.pad_token_id != pad:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return pad, tokenizer


@torch.no_grad()
def _compare(role: Role, folder: Path) -> None:
    """Reads the folder and runs both on random groups. (Outputs, not weights: a wrong head or config shows too.)"""
    dtype = next(name for name, value in DTYPES.items() if value == role.hf.dtype)
    options: dict[str, Any] = {"device": str(role.device), "dtype": dtype, "layout": "rows"}
    want: tuple[str, ...]
    if role.kind == "policy":
        twin = load_policy(str(folder), value_head=role.scalar_head is not None, **options)
        want = ("logprobs", "values") if role.scalar_head is not None else ("logprobs",)
    else:
        twin = load_scalar(str(folder), kind=role.kind, require_head=True, **options)
        want = ("scores",)
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(role.vocab_size, (3, 12), generator=random).tolist()
    groups = [Group(Prompt(tuple(row[: 3 + i])), (Response(tuple(row[3 + i :])),)) for i, row in enumerate(ids)]
    training = [module for module in role.modules() if module.training]
    role.eval()
    laid = lay_out(groups, "rows", pad_id=role.pad_id, device=role.device)
    before, after = role(laid, want), twin(laid, want)
    for module in training:
        module.training = True
    for name in want:
        off = _difference(name, before, after)
        if not off <= TOLERANCE:
            raise RuntimeError(
                f"{type(role.hf).__name__} read back from what was saved gives other {name}, by {off:.2g}"
            )


def _difference(name: str, before: Outputs, after: Outputs) -> float:
    mine, other = getattr(before, name), getattr(after, name)
    return float((mine - other).abs().max() / mine.abs().max().clamp_min(1))


def _replace(part: Path, target: Path) -> None:
    """Moves `part` to `target`; what was there goes only when the new one is in its place."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)
