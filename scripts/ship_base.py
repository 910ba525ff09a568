"""Copies the base model that `tether run base` made into the package, its weights in bfloat16.

    python scripts/ship_base.py runs/base/base

Prints the held-out loss before and after the cast, so that the model card can state it.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGET = Path(__file__).parents[1] / "src" / "tether" / "base_model"


def main(artifact: Path) -> None:
    """`artifact` is the folder of the recipe's `base` stage."""
    card = TARGET / "README.md"
    kept = card.read_text(encoding="utf-8") if card.is_file() else ""
    shutil.rmtree(TARGET, ignore_errors=True)
    AutoModelForCausalLM.from_pretrained(artifact / "model").to(torch.bfloat16).save_pretrained(TARGET)
    AutoTokenizer.from_pretrained(artifact / "model").save_pretrained(TARGET)
    if kept:
        card.write_text(kept, encoding="utf-8")
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    print("held-out loss, nats a token:", manifest["summary"]["metrics"]["eval/loss"])
    print("bytes:", sum(f.stat().st_size for f in TARGET.iterdir()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
