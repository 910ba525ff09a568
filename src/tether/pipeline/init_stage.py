"""A new model: a byte-level BPE vocabulary learnt from text, and random weights of the Llama architecture."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tether.data.bpe import train_tokenizer
from tether.data.rows import read_rows
from tether.pipeline.place import Place
from tether.pipeline.sections import InitSection
from tether.train.checkpoint import seed_everything


def init_stage(place: Place, say: Any) -> dict[str, Any]:
    """Writes `model/`: tokenizer, config and weights drawn from the stage's seed."""
    section = place.section
    assert isinstance(section, InitSection)
    folder = place.folder / "model"
    seed_everything(place.seed)
    train_tokenizer((row["text"] for row in read_rows(section.data)), section.vocab_size, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **section.architecture.model_dump(),
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer):,} tokens")
    return {"metrics": {}, "parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer)}
