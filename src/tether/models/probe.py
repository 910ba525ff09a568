"""What a trunk can do, found by trying: which layout gives plain forward's numbers, and what is done to its logits.

A few random sequences go through the trunk one at a time, as plain `transformers` would, then as `rows`, then packed
(`varlen`: asked for, or attention is flash attention) or as `tree` rows in each form of mask. The first that agrees is
used. Windows are narrowed for the trial, or they would never bite on sequences this short. It costs about ten short
forwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tether.errors import InputError
from tether.math.logprobs import Logits
from tether.models.layout import Kind, MaskStyle, View, lay_out, width
from tether.models.role import Role
from tether.types import Group, Prompt, Response

Layout = Literal["auto", "rows", "tree", "varlen"]

LENGTHS = ((9, (5, 2)), (4, (3, 7, 1)))
"""Prompt and response lengths of the trial groups."""
NARROW = 4
"""Sliding windows and chunks during the trial: shorter than every sequence of it."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.08, torch.float16: 0.01}
"""Largest relative error of a state that rounding explains; wrong masks make errors near 1."""
LONGEST_PACKED = 4096
"""Longest context that the trial of packed rows goes beyond."""
Choice = tuple[Kind, MaskStyle, str]
"""A layout, its form of mask, and why."""
WINDOWS = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
"""Configuration fields a mask can honour, and the layers they are about."""


@torch.no_grad()
def probe(role: Role, layout: Layout = "auto") -> None:
    """Sets the role's `transform`, `layout`, `layout_reason` and `mask_style`. Leaves every random generator alone.

    Raises `InputError` where no layout gives the plain numbers, the logits are not understood, or `tree` or `varlen`
    was demanded of a trunk that cannot.
    """
    training = [module for module in role.modules() if module.training]
    role.eval()
    (_probe_encoder if role.encoder else _probe_causal)(role, _trial_groups(role), layout)
    for module in training:
        module.training = True


def _probe_causal(role: Role, groups: Sequence[Group], layout: Layout) -> None:
    """The transform of the logits, and the first layout that gives the states of one sequence at a time."""
    if role.kind == "policy":
        role.transform = _logit_transform(role, groups[0])
    name = type(role.hf).__name__
    with _narrowed(role.trunk.config):
        plain = torch.cat([_plain(role, group, i) for group in groups for i in range(len(group.responses))])
        off = _error(_states(role, groups, "rows", MaskStyle()), plain)
        tolerance = TOLERANCE[plain.dtype]
        if off > tolerance:
            raise InputError(f"{name}: its states depend on the rest of the batch (by {off:.2g}); it cannot be used")
        packed = layout == "varlen" or (layout == "auto" and has_flash_attention(role.trunk))
        choice: Choice = ("rows", MaskStyle(), "asked for")
        if layout != "rows":
            choice = (_packed if packed else _tree)(role, groups, plain, tolerance)
    kind, style, reason = choice
    if layout not in ("auto", kind):
        raise InputError(f"layout '{layout}' cannot be used with {name}: {reason}; valid here: 'rows' or 'auto'")
    role.layout, role.layout_reason = kind, reason
    role.mask_style = _true_to(role.trunk.config, style)


def _probe_encoder(role: Role, groups: Sequence[Group], layout: Layout) -> None:
    """Rows, if their scores are those of the classifier on one text at a time."""
    name = type(role.hf).__name__
    if layout not in ("auto", "rows"):
        raise InputError(f"layout '{layout}' cannot be used with {name}: it reads both ways; valid: 'rows' or 'auto'")
    alone = [role.hf(input_ids=_sequence(role, g, i)).logits[0] for g in groups for i in range(len(g.responses))]
    plain = torch.stack(alone).float()
    found = role(lay_out(groups, "rows", pad_id=role.pad_id, device=role.device), ("scores",)).scores
    off = ((found.view_as(plain) - plain).abs().max() / plain.abs().max()).item()
    if not off <= TOLERANCE[role.hf.dtype]:
        raise InputError(f"{name}: its scores depend on the rest of the batch (by {off:.2g}); it cannot be used")
    role.layout, role.layout_reason = "rows", f"{name} reads both ways, so responses cannot share a row"


def has_flash_attention(trunk: nn.Module) -> bool:
    """Whether the trunk's attention is a flash-attention kernel, which packs sequences and takes no mask."""
    config: Any = trunk.config
    return "flash" in (config._attn_implementation or "")


def _packed(role: Role, groups: Sequence[Group], plain: Tensor, tolerance: float) -> Choice:
    """`varlen`, if the packed sequences do not see each other."""
    name = type(role.hf).__name__
    # A packed row may be longer than any sequence can be, and a trunk may have room for one sequence only.
    cells = sum(width(group, "varlen") for group in groups)
    copies = 1 + (role.max_tokens // cells if role.max_tokens <= LONGEST_PACKED else 0)
    try:
        off = _error(_states(role, [*groups] * copies, "varlen", MaskStyle()), plain.repeat(copies, 1))
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        return "rows", MaskStyle(), f"{name} takes no packed rows ({_first_line(error)})"
    if off > tolerance:
        return "rows", MaskStyle(), f"packed rows of {name} differ from plain ones (by {off:.2g})"
    means = "flash attention" if has_flash_attention(role.trunk) else "a mask: without flash attention this is slow"
    return "varlen", MaskStyle(), f"packed rows equal plain ones to {off:.1g}, kept apart by {means}"


def _tree(role: Role, groups: Sequence[Group], plain: Tensor, tolerance: float) -> Choice:
    """`tree` and the first form of mask under which its rows agree; or `rows`, and why."""
    config = role.trunk.config
    rows: tuple[Kind, MaskStyle] = "rows", MaskStyle()
    if "position_ids" not in inspect.signature(role.trunk.forward).parameters:
        return *rows, f"{type(role.hf).__name__} takes no position ids, so a response cannot restart after its prompt"
    if foreign := _foreign_windows(config):
        return *rows, f"{type(role.hf).__name__} limits attention by {foreign}, which a mask here cannot follow"
    closest, refusal = float("inf"), ""
    for style in _styles(config, plain.dtype):
        try:
            off = _error(_states(role, groups, "tree", style), plain)
        except Exception as error:  # any way of not taking this mask is an answer
            refusal = refusal or _first_line(error)
            continue
        if off <= tolerance:
            form = "boolean" if style.additive is None else "additive"
            return "tree", style, f"tree rows equal plain ones to {off:.1g} with a {form} mask"
        closest = min(closest, off)
    if closest < float("inf"):
        return *rows, f"tree rows of {type(role.hf).__name__} differ from plain ones (by {closest:.2g})"
    return *rows, f"{type(role.hf).__name__} takes no 4-D mask ({refusal})"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _styles(config: Any, dtype: torch.dtype) -> Iterator[MaskStyle]:
    """Forms of mask this configuration might want, likeliest first."""
    types = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    window, chunk = (getattr(config, name, None) for name in WINDOWS)
    single = (View(None, window, chunk),)
    by_type = tuple(
        View(
            name,
            window if WINDOWS["sliding_window"] == name else None,
            chunk if WINDOWS["attention_chunk_size"] == name else None,
        )
        for name in types
    )
    forms: list[tuple[View, ...]] = [(View(),)] if set(types) == {"full_attention"} else []
    if set(types) - {"full_attention"}:
        forms.append(by_type)
    forms.append(single)
    for views in dict.fromkeys(forms):
        for additive in (None, dtype):
            yield MaskStyle(views, additive)


def _true_to(config: Any, style: MaskStyle) -> MaskStyle:
    """The style with the configuration's own windows, after a trial with narrow ones."""
    sizes = {name: getattr(config, name, None) for name in WINDOWS}
    return style._replace(
        views=tuple(
            view._replace(
                window=sizes["sliding_window"] if view.window is not None else None,
                chunk=sizes["attention_chunk_size"] if view.chunk is not None else None,
            )
            for view in style.views
        )
    )


def _foreign_windows(config: Any) -> str:
    """A field that limits attention in a way no mask style knows, or ''; too wide a limit to show in a trial."""
    for name, value in config.to_dict().items():
        limits = "window" in name and not name.endswith(("_layers", "_pattern")) and name not in WINDOWS
        if limits and isinstance(value, int) and value > 1:
            return f"{name}={value}"
    return ""


@contextmanager
def _narrowed(config: Any) -> Iterator[None]:
    found = {name: getattr(config, name, None) for name in WINDOWS}
    kept = {name: size for name, size in found.items() if isinstance(size, int)}
    try:
        for name, size in kept.items():
            setattr(config, name, min(size, NARROW))
        yield
    finally:
        for name, size in kept.items():
            setattr(config, name, size)


def _trial_groups(role: Role) -> list[Group]:
    """Random ids from a generator of their own."""
    random = torch.Generator().manual_seed(0)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(role.vocab_size, (length,), generator=random).tolist())

    return [Group(Prompt(draw(p)), tuple(Response(draw(r)) for r in lengths)) for p, lengths in LENGTHS]


def _sequence(role: Role, group: Group, index: int) -> Tensor:
    return torch.tensor([group.prompt.token_ids + group.responses[index].token_ids], device=role.device)


def _plain(role: Role, group: Group, index: int) -> Tensor:
    """States of one sequence alone: those that predict its response, then the last."""
    states = role.trunk(input_ids=_sequence(role, group, index), use_cache=False)[0][0]
    out: Tensor = states[len(group.prompt.token_ids) - 1 :]
    return out


def _states(role: Role, groups: Sequence[Group], kind: Kind, style: MaskStyle) -> Tensor:
    """The same states through a layout."""
    laid = lay_out(groups, kind, style, role.pad_id, role.device)
    hidden = role.hidden(laid)
    before = torch.split(hidden[laid.predict], [len(r.token_ids) for g in groups for r in g.responses])
    return torch.cat([torch.cat([states, hidden[at][None]]) for states, at in zip(before, laid.last, strict=True)])


def _error(found: Tensor, plain: Tensor) -> float:
    """The worst of the vectors' relative errors, ‖found - plain‖ / ‖plain‖; infinite where one is not finite."""
    off = (found - plain).float().norm(dim=-1) / plain.float().norm(dim=-1)
    return off.max().item() if off.isfinite().all() else float("inf")


def _logit_transform(role: Role, group: Group) -> Logits:
    """The first of the transforms the configuration speaks of that turns head · state into the model's own logits."""
    ids = _sequence(role, group, 0)
    plain = role.hf(input_ids=ids, use_cache=False).logits[0].float()
    hidden = role.trunk(input_ids=ids, use_cache=False)[0][0]
    best = float("inf")
    for transform in _transforms(role.hf.config.get_text_config()):
        role.transform = transform
        off = _error(role.logits(hidden), plain)
        if off <= TOLERANCE[hidden.dtype]:
            return transform
        best = min(best, off)
    raise InputError(
        f"{type(role.hf).__name__}: its logits are not its vocabulary matrix times its last hidden states, nor scaled "
        f"or soft-capped in a way Tether knows (off by {best:.2g}), so log-probs would be wrong; use another model"
    )


def _transforms(config: Any) -> Iterator[Logits]:
    def number(name: str) -> float | None:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, int | float) and value else None

    divided, *multiplied = (number(n) for n in ("logits_scaling", "logit_scale", "lm_head_multiplier"))
    scales = [1.0, *([1 / divided] if divided else []), *(scale for scale in multiplied if scale)]
    caps = [number(n) for n in ("final_logit_softcapping", "logits_soft_cap")]
    # A cap first where there is one: on small logits it looks like none at all.
    for softcap in [*(cap for cap in caps if cap), None]:
        for scale in scales:
            yield Logits(scale, softcap)
