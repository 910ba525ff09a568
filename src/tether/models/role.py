"""A role: one trunk and its heads as one module whose forward goes from laid-out groups to the flat axis.

Shapes: `B` rows, `T` cells of a row, `N` trained tokens, `S` responses, `d` width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tether.errors import InputError
from tether.math.logprobs import Logits, token_logprobs
from tether.models.layout import Kind, Laid, MaskStyle, lay_out
from tether.types import Group, Outputs

RoleKind = Literal["policy", "reward", "value"]

UNLIMITED = 2**31 - 1
"""`max_tokens` of a trunk without a longest context (recurrent ones)."""


class Role(nn.Module):
    """A policy, a reward model or a value function; the reference is a frozen policy.

    `hf` is a causal LM (policy), a sequence classifier with one label a head, or a bare trunk where the architecture
    has no classifier of its own. An `encoder` reads a text both ways and scores it by a classifier of its own making,
    pooling included; it gives scores only. `scalar_head` is the fp32 head of a bare trunk, or a policy's shared value
    head.
    Everything stays in eval mode unless `dropout` is set, so `train()` changes nothing.
    """

    hf: Any
    """The `transformers` model (typed loosely: its attributes depend on the architecture)."""

    def __init__(
        self,
        hf: PreTrainedModel,
        kind: RoleKind,
        *,
        scalar_head: nn.Linear | None = None,
        encoder: bool = False,
        dropout: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.hf = hf
        self.kind = kind
        self.scalar_head = scalar_head
        self.encoder = encoder
        self.dropout = dropout
        # Rows are padded where a causal model does not look; some models would warn that no mask says so.
        self.hf.base_model.warn_if_padding_and_no_attention_mask = _unsaid
        self.layout: Kind = "rows"
        self.layout_reason = "not probed"
        self.mask_style = MaskStyle()
        self.transform = Logits()
        config = self.hf.config.get_text_config()
        pads = (config.pad_token_id, config.eos_token_id)
        self.pad_id: int = next((i for i in pads if isinstance(i, int) and 0 <= i < self.vocab_size), 0)
        self.max_tokens = _context_length(config) - _unused_positions(self.trunk)
        # A pad is never seen, so its embedding needs no protection; where pad is also a real token it must learn.
        self.hf.get_input_embeddings().padding_idx = None
        if scalar_head is None and kind != "policy" and not encoder:
            self.hf.score.float()
        if gradient_checkpointing:
            if not self.hf.supports_gradient_checkpointing:
                raise InputError(
                    f"{type(hf).__name__} cannot recompute activations; set gradient_checkpointing to false"
                )
            # Renamed after transformers 5.17.
            enable = getattr(self.hf, "activation_checkpointing_enable", None) or self.hf.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.train(False)

    @property
    def trunk(self) -> nn.Module:
        """The model below its heads: token ids → hidden states (B, T, d)."""
        trunk: nn.Module = self.hf.base_model
        return trunk

    @property
    def scalar(self) -> nn.Linear | None:
        """The head of values and scores, fp32; None for a policy without a value head, and for an encoder."""
        if self.scalar_head is not None or self.kind == "policy" or self.encoder:
            return self.scalar_head
        score: nn.Linear = self.hf.score
        return score

    @property
    def num_heads(self) -> int:
        """Scores of one response; 0 for a policy without a value head."""
        if self.encoder:
            return int(self.hf.config.num_labels)
        return 0 if self.scalar is None else int(self.scalar.weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def vocab_size(self) -> int:
        """Rows of the input embedding: every token id is below this."""
        embedding: nn.Embedding = self.hf.get_input_embeddings()
        return int(embedding.weight.shape[0])

    def train(self, mode: bool = True) -> Role:
        """Eval mode whatever is asked, unless the role was made with `dropout=True`."""
        super().train(mode and self.dropout)
        for module in self.hf.modules():
            # Recomputation is switched by the layer's own `training` flag. Its children, dropouts included, stay in
            # eval mode; a layer that drops out in its own forward has its rate set to 0.
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing and not self.dropout:
                for name, rate in vars(module).items():
                    if "dropout" in name and isinstance(rate, float):
                        setattr(module, name, 0.0)
                module.training = True
        return self

    def lay_out(self, groups: Sequence[Group]) -> Laid:
        """Rows of `groups` in this role's layout, on its device."""
        return lay_out(groups, self.layout, self.mask_style, self.pad_id, self.device)

    def forward(self, laid: Laid, want: tuple[str, ...] = ("logprobs",), temperature: float = 1.0) -> Outputs:
        """What is wanted of `logprobs`, `entropy`, `values`, `steps` (N,) and `scores` (S,), on the flat axis, fp32.

        With H > 1 heads `scores` are (S, H), and the others of a head (N, H).
        """
        if self.encoder:
            return self._encoded(laid, want)
        hidden = self.hidden(laid)
        logprobs = entropy = values = scores = steps = None
        if "scores" in want:
            scores = self._scalars(hidden.index_select(0, laid.last))
        if "steps" in want:
            steps = self._scalars(hidden.index_select(0, laid.own))
        if any(name in want for name in ("logprobs", "entropy", "values")):
            before = hidden.index_select(0, laid.predict)
            if "values" in want:
                values = self._scalars(before)
            if "logprobs" in want or "entropy" in want:
                head = self._lm_head()
                logprobs, entropy = token_logprobs(
                    before,
                    head.weight,
                    laid.targets,
                    bias=head.bias,
                    temperature=temperature,
                    transform=self.transform,
                    entropy="entropy" in want,
                )
        if "logprobs" not in want:
            logprobs = None
        return Outputs(logprobs=logprobs, entropy=entropy, values=values, scores=scores, steps=steps)

    def _encoded(self, laid: Laid, want: tuple[str, ...]) -> Outputs:
        """Scores of whole rows; pads come last, and the mask ends at each row's last real token."""
        if want != ("scores",):
            name = type(self.hf).__name__
            raise InputError(
                f"{name} reads a response both ways, so it gives scores only; {want[0]} needs a causal model"
            )
        width = laid.input_ids.shape[1]
        real = torch.arange(width, device=self.device) <= (laid.last % width)[:, None]
        scores: Tensor = self.hf(input_ids=laid.input_ids, attention_mask=real.long()).logits.float()
        return Outputs(scores=scores.squeeze(-1) if scores.shape[-1] == 1 else scores)

    def hidden(self, laid: Laid) -> Tensor:
        """(B*T, d) last hidden states of the rows."""
        # Without a mask the trunk counts positions itself: (1, T) of them, cheaper than (B, T), and causal attention.
        kwargs: dict[str, Any] = {}
        if laid.attention is not None:
            kwargs = {"position_ids": laid.position_ids, "attention_mask": laid.attention}
        elif laid.bounds is not None:
            bounds, longest = laid.bounds, laid.longest
            kwargs = {"position_ids": laid.position_ids, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            kwargs |= {"max_length_q": longest, "max_length_k": longest}
        states: Tensor = self.trunk(input_ids=laid.input_ids, use_cache=False, **kwargs)[0]
        return states.flatten(0, 1)

    def decode(
        self, input_ids: Tensor, position_ids: Tensor | None, attention_mask: Tensor | None, cache: Any
    ) -> Tensor:
        """(B, V) fp32 logits after the last of `input_ids` (B, T), with the model's own scale and soft cap.

        `cache` is a transformers cache, grown in place; `attention_mask` (B, cached + T) bool is false on left pads.
        """
        kwargs = {} if position_ids is None else {"position_ids": position_ids}
        out = self.trunk(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, **kwargs
        )
        return self.logits(out[0][:, -1])

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, V) fp32 logits of hidden states (…, d), transform included."""
        head = self._lm_head()
        logits = nn.functional.linear(hidden, head.weight, head.bias).float()
        if self.transform.scale != 1.0:
            logits = logits * self.transform.scale
        if self.transform.softcap is not None:
            logits = torch.tanh(logits / self.transform.softcap) * self.transform.softcap
        return logits

    def _lm_head(self) -> nn.Linear:
        if self.kind != "policy":
            raise InputError(f"a {self.kind} model has no vocabulary head; log-probs need a policy")
        head: nn.Linear = self.hf.get_output_embeddings()
        return head

    def _scalars(self, hidden: Tensor) -> Tensor:
        head = self.scalar
        if head is None:
            raise InputError("this policy has no value head; load it with value_head=True")
        scalars: Tensor = head(hidden.float())
        return scalars.squeeze(-1) if scalars.shape[-1] == 1 else scalars


def _unsaid(*_: object) -> None:
    """In place of a warning that is not meant for us."""


def _unused_positions(trunk: Any) -> int:
    """Rows of a position table that no token stands at: RoBERTa and its kin count up from the pad's id + 1."""
    table = getattr(getattr(trunk, "embeddings", None), "position_embeddings", None)
    pad = getattr(table, "padding_idx", None)
    return 0 if pad is None else pad + 1


def _context_length(config: Any) -> int:
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
    found = [getattr(config, name, None) for name in names]
    return next((n for n in found if isinstance(n, int) and n > 0), UNLIMITED)
