"""From a folder or hub id to a probed `Role`. safetensors only, no remote code; nothing is printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)
from transformers.utils import logging as hf_logging
from transformers.utils.import_utils import is_flash_attn_2_available

from tether.errors import InputError
from tether.models.probe import Layout, probe
from tether.models.role import Role

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BASE = Path(__file__).resolve().parent.parent / "base_model"
"""The model the package ships."""
VALUE_HEAD = "value_head.safetensors"
"""A policy's value head, beside its weights."""
SCALAR_HEAD = "scalar_head.safetensors"
"""The head of a reward or value model whose architecture has no sequence classifier."""
HEADS: Literal["regression"] = "regression"
"""`problem_type` of a classifier whose labels are each a score: that of several reward heads."""


def resolve_model(name: str) -> str:
    """`base` → the shipped model's folder; a folder → itself; else a hub id, as it is."""
    if name == "base":
        if not (BASE / "config.json").is_file():
            raise InputError("model 'base': this installation ships no base model; give a folder or a hub id")
        return str(BASE)
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or ("/" in name and Path(name).parent.is_dir()):
        raise InputError(f"model '{name}': there is no such folder, and it is not a hub id (owner/name)")
    return name


def load_policy(
    path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    layout: Layout = "auto",
    value_head: bool = False,
    dropout: bool = False,
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> Role:
    """A causal LM as a policy, with its saved value head, or a new small one drawn from `seed`, if wanted."""
    path = resolve_model(path)
    config = _policy_config(path)
    wanted = _dtype(dtype, _device(device))
    _choose_attention(config, layout, wanted, _device(device))
    hf = _load(AutoModelForCausalLM, path, config, wanted)
    head = None
    if value_head:
        saved = Path(path) / VALUE_HEAD
        head = _saved_head(saved) if saved.is_file() else _new_head(hf, seed)
    role = Role(hf, "policy", scalar_head=head, dropout=dropout, gradient_checkpointing=gradient_checkpointing).to(
        _device(device)
    )
    probe(role, layout)
    return role


def load_scalar(
    path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    layout: Layout = "auto",
    kind: Literal["reward", "value"] = "reward",
    require_head: bool = False,
    num_heads: int | None = None,
    dropout: bool = False,
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> Role:
    """A reward or value model: a saved one with its heads, or a causal LM's trunk with new small ones from `seed`.

    New heads are `num_heads`, or one; a trained model keeps the number it has. A value model has one: of several heads
    it is their mean. An encoder (BERT and its kin) scores through the classifier that its architecture has, new or
    trained, and can be no value model. `InputError` with `require_head` for a folder without a trained head, and for a
    trained model of another number of heads than `num_heads`.
    """
    path = resolve_model(path)
    config, trained = _scalar_config(path, kind, require_head)
    wanted = _dtype(dtype, _device(device))
    _choose_attention(config, layout, wanted, _device(device))
    new = None if trained else num_heads or 1
    encoder = _is_encoder(config)
    hf, head = (_encoder if encoder else _scorer)(path, config, wanted, new, seed)
    settings = {"dropout": dropout, "gradient_checkpointing": gradient_checkpointing}
    role = Role(hf, kind, scalar_head=head, encoder=encoder, **settings).to(_device(device))
    if num_heads not in (None, role.num_heads):
        raise InputError(f"model '{path}' has {role.num_heads} reward heads, where {num_heads} are asked for")
    if kind == "value":
        _mean_head(role)
    probe(role, layout)
    return role


def value_from(path: str, **options: Any) -> Role:
    """A value function that starts as the reward model or the policy's trunk at `path`; options of `load_scalar`."""
    return load_scalar(path, kind="value", **options)


def check_model(path: str, kind: Literal["policy", "reward", "value"], *, require_head: bool = False) -> None:
    """Looks at a model before anything heavy is done: its configuration and the headers of its weight files.

    Raises `InputError` as `load_policy` and `load_scalar` would, as far as can be told without loading the weights.
    """
    path = resolve_model(path)
    if kind == "policy":
        _policy_config(path)
    else:
        _scalar_config(path, kind, require_head)
    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"model '{path}': {file.name} is corrupted or cut short: {error}") from error


def check_device(name: str) -> None:
    """Raises `InputError` where this machine has no device of this name."""
    _device(name)


def check_tokenizer(role: Role, vocab_len: int) -> None:
    """Raises `InputError` where the tokenizer can give ids the model has no embedding for."""
    if vocab_len > role.vocab_size:
        raise InputError(
            f"the tokenizer has {vocab_len} tokens but {type(role.hf).__name__} embeds only {role.vocab_size}; "
            "give the tokenizer that belongs to the model"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{name}' is not on this machine; valid: auto, cpu, cuda, cuda:N, mps") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 only where matrix units multiply it fast (CUDA from compute capability 8.0)."""
    if name != "auto":
        return DTYPES[name]
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if fast else torch.float32


def _choose_attention(config: PreTrainedConfig, layout: Layout, dtype: torch.dtype, device: torch.device) -> None:
    """Packed rows want flash attention; it wants CUDA, half precision and its package."""
    half = dtype in (torch.bfloat16, torch.float16)
    if layout == "varlen" and half and device.type == "cuda" and is_flash_attn_2_available():
        config._attn_implementation = "flash_attention_2"


def _config(path: str) -> PreTrainedConfig:
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"model folder '{path}' has no config.json, so it is not a Hugging Face model folder")
        if not any(folder.glob("*.safetensors")):
            raise InputError(f"model folder '{path}' has no *.safetensors weights; other formats are not read")
    try:
        with quiet():
            config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        what = "its configuration cannot be read" if folder.is_dir() else "no folder here, and not found on the hub"
        raise InputError(f"model '{path}': {what}: {reason}") from error
    return config


def _policy_config(path: str) -> PreTrainedConfig:
    config = _config(path)
    if _is_classifier(config) or _is_encoder(config) or type(config) not in AutoModelForCausalLM._model_mapping:
        made = ", ".join(config.architectures or [type(config).__name__])
        raise InputError(f"model '{path}' is {made}, not a causal language model; a policy must be one")
    return config


def _scalar_config(path: str, kind: str, require_head: bool) -> tuple[PreTrainedConfig, bool]:
    """The configuration, and whether a trained head comes with it."""
    config = _config(path)
    if kind == "value" and _is_encoder(config):
        made = ", ".join(config.architectures or [type(config).__name__])
        raise InputError(f"model '{path}' is {made}, which reads both ways; a value model must be a causal one")
    loose = (Path(path) / SCALAR_HEAD).is_file()
    trained = _is_classifier(config) or loose
    if require_head and not trained:
        raise InputError(f"model '{path}' has no reward head: it was never saved, or this is not a reward model")
    if trained and not loose and config.num_labels != 1 and config.problem_type != HEADS:
        raise InputError(
            f"model '{path}' classifies into {config.num_labels} labels; a reward model has exactly 1, or several "
            f"heads and says problem_type = '{HEADS}' in its configuration"
        )
    return config, trained


def _is_classifier(config: PreTrainedConfig) -> bool:
    names: list[str] = config.architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def _is_encoder(config: PreTrainedConfig) -> bool:
    """Whether the trunk reads both ways, as it does where it was made to fill in masks."""
    decodes = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    return type(config) in AutoModelForMaskedLM._model_mapping and not decodes


def _scorer(
    path: str, config: PreTrainedConfig, dtype: torch.dtype, new: int | None, seed: int
) -> tuple[Any, nn.Linear | None]:
    """A causal trunk: as a classifier, or with a loose head; `new` heads, or the trained ones."""
    loose = Path(path) / SCALAR_HEAD
    hf = None if loose.is_file() else _classifier(path, config, dtype, new)
    if hf is None:
        hf = _load(AutoModel, path, config, dtype)
        return hf, _saved_head(loose) if new is None else _new_head(hf, seed, new)
    if new is not None:
        hf.score.weight.data = _new_head(hf, seed, new).weight.data
    return hf, None


def _encoder(
    path: str, config: PreTrainedConfig, dtype: torch.dtype, new: int | None, seed: int
) -> tuple[Any, nn.Linear | None]:
    """An encoder's classifier; a new one's pooler and head are drawn from `seed` as `transformers` draws them."""
    classifiers: Any = AutoModelForSequenceClassification._model_mapping
    if type(config) not in classifiers:
        raise InputError(f"model '{path}': transformers has no classifier for {type(config).__name__}; use another")
    may_lack = ""
    if new is not None:
        config.num_labels, config.problem_type = new, HEADS
        may_lack = rf"(?!{classifiers[type(config)].base_model_prefix}\.).*|.*\.pooler\..*"
    return _load(AutoModelForSequenceClassification, path, config, dtype, may_lack, seed), None


def _classifier(path: str, config: PreTrainedConfig, dtype: torch.dtype, new: int | None) -> Any:
    """A classifier with a `score` head, trained or of `new` labels; None where the architecture has no such one."""
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        return None
    if new is not None:
        config.num_labels = new
        if new > 1:
            config.problem_type = HEADS
    hf = _load(AutoModelForSequenceClassification, path, config, dtype, "" if new is None else r"score\.weight")
    score = getattr(hf, "score", None)
    plain = isinstance(score, nn.Linear) and set(score.state_dict()) == {"weight"}
    if not plain or hf.score.out_features != config.num_labels:
        return None
    if new is None and dtype != torch.float32:
        hf.score.float()
        _fill_in_full(path, "score.weight", hf.score.weight)
    return hf


def _fill_in_full(path: str, name: str, parameter: torch.Tensor) -> None:
    """A tensor at the precision it was saved in: a head stays fp32 where its trunk is loaded in less."""
    for file in Path(path).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118 (not a mapping)
                parameter.data = tensors.get_tensor(name).float()


def _load(auto: Any, path: str, config: PreTrainedConfig, dtype: torch.dtype, may_lack: str = "", seed: int = 0) -> Any:
    """`auto.from_pretrained`, with every parameter found in the file except those whose name matches `may_lack`."""
    try:
        with quiet(), torch.random.fork_rng():  # filling what is missing would draw from the global generators
            torch.manual_seed(seed)
            hf, info = auto.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"model '{path}': its weights cannot be read (corrupted or cut short?): {reason}") from error
    missing = sorted(key for key in info["missing_keys"] if not re.fullmatch(may_lack, key))
    if "score.weight" in missing:
        raise InputError(f"model '{path}': the reward head was not saved with it (score.weight is missing)")
    if missing:
        raise InputError(f"model '{path}': {len(missing)} parameters are not in its weights, such as {missing[0]}")
    return hf


def _mean_head(role: Role) -> None:
    """Several heads become the one whose output is their mean."""
    linear = role.scalar
    if linear is not None and role.num_heads > 1:
        linear.weight.data = linear.weight.data.mean(0, keepdim=True)
        linear.out_features = role.hf.config.num_labels = role.hf.num_labels = 1
        role.hf.config.problem_type = None


def _new_head(hf: Any, seed: int, outputs: int = 1) -> nn.Linear:
    """(d → outputs), fp32, N(0, 1/(d+1)) as in Ziegler et al. (2019)."""
    width = hf.config.get_text_config().hidden_size
    with torch.random.fork_rng(devices=[]):
        head = nn.Linear(width, outputs, bias=False)
    head.weight.data.normal_(0.0, (width + 1) ** -0.5, generator=torch.Generator().manual_seed(seed))
    return head


def _saved_head(file: Path) -> nn.Linear:
    try:
        weight = load_file(file)["weight"].float()
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"head '{file}' cannot be read: it is corrupted or not a head") from error
    with torch.random.fork_rng(devices=[]):
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data = weight
    return head


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no table of newly initialised weights from `transformers`."""
    log: Any = hf_logging  # not typed
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
