"""A checkpoint to the folder that is shipped: bf16 weights, tokenizer, config, prompts, meta-init.

Every file is written beside and renamed, so a reader sees the old or the new one. The model card
lies in the folder already and is left alone.

    python -m recipes.mini.export --checkpoint runs/mini/best.pt
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapterdb.layout import DeltaLayout
from recipes.mini.meta import MetaInit
from recipes.mini.prepare import DEFAULT_RUN
from recipes.mini.prompts import PROMPTS_PATH
from recipes.mini.schedule import load
from recipes.mini.start import SHIPPED, base_tokenizer, skeleton


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags and export."""
    parser = argparse.ArgumentParser(description="write the shipped model folder of mini")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_RUN / "best.pt")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--tiny", action="store_true", help="for tests")
    options = parser.parse_args(arguments)
    state = load(options.checkpoint)
    if state is None:
        raise SystemExit(f"{options.checkpoint} is missing")
    for path in export(state, options.out, options.tiny):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


def export(state: dict[str, Any], out: Path, tiny: bool = False) -> list[Path]:
    """Write the files of a checkpoint; the paths written.

    Args:
        state: as saved by `reader` (model only) or `meta` (with meta-init and layout).
        out: the folder; made if need be.
        tiny: the checkpoint is of the tests' tiny model.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = skeleton(tiny)
    model.load_state_dict(state["model"])
    model.generation_config.max_new_tokens = 24
    model.generation_config.do_sample = False
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 101, 102
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".mini-") as folder:
        partial = Path(folder)
        model.to(torch.bfloat16).save_pretrained(partial)
        base_tokenizer().save_pretrained(partial)
        shutil.copy(PROMPTS_PATH, partial)
        if "meta" in state:
            _write_meta_init(state, partial / "meta_init.safetensors")
        written = []
        for path in sorted(partial.iterdir()):
            path.chmod(0o644)
            written.append(path.replace(out / path.name))
    return written


def _write_meta_init(state: dict[str, Any], path: Path) -> None:
    layout = DeltaLayout.from_dict(json.loads(state["layout"]))
    meta = MetaInit(layout, 1.0)
    meta.load_state_dict(state["meta"])
    tensors = {"theta": meta.theta.detach().clone(), "alpha": meta.alpha.detach().clone()}
    metadata = {"layout": json.dumps(layout.to_dict()), "fingerprint": layout.fingerprint}
    save_file(tensors, path, metadata=metadata)


if __name__ == "__main__":
    main()
