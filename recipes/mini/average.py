"""Average the weights of checkpoints that one was trained on from the other (a model soup).

Once a reader knows its training passages by heart, training on gains little, but the mean of the
weights before and after reads better than either (Wortsman et al., 2022; figures in README.md).
theta is averaged likewise, alpha by its logarithm. Choose the share on the set-aside articles.

    python -m recipes.mini.average adapterdb/models/mini runs/mini/best.pt --out runs/mini/mean.pt
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.mini.meta import MetaInit
from recipes.mini.network import mini_layout
from recipes.mini.schedule import load, save
from recipes.mini.start import earlier

State = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags and write the mean."""
    parser = argparse.ArgumentParser(description="average two checkpoints of mini")
    parser.add_argument("first", type=Path, help="checkpoint, or a shipped folder")
    parser.add_argument("second", type=Path, help="likewise")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0..1")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    options = parser.parse_args(arguments)
    save(options.out, average(read(options.first), read(options.second), options.share))


def read(path: Path) -> State:
    """The `model`, and where there is one `meta` and `layout`, of a checkpoint or a shipped folder.

    Raises:
        SystemExit: if there is nothing there.
    """
    if path.is_dir():
        model = earlier(path)
        layout = mini_layout(model)
        meta = MetaInit(layout, alpha=1.0)
        meta.load_file(path / "meta_init.safetensors")
        return {
            "model": model.state_dict(),
            "meta": meta.state_dict(),
            "layout": json.dumps(layout.to_dict()),
        }
    state = load(path)
    if state is None:
        raise SystemExit(f"{path} is missing; give a checkpoint or a shipped folder")
    return state


def average(first: State, second: State, share: float) -> State:
    """The mean of two states, `share` of the second; a meta-init only where both have one.

    Raises:
        SystemExit: if their meta-inits are of different layouts.
    """
    mean: State = {"model": _mean(first["model"], second["model"], share)}
    if "meta" in first and "meta" in second:
        if first["layout"] != second["layout"]:
            raise SystemExit("the meta-inits are of different layouts; they can't be averaged")
        mean["meta"] = _mean(first["meta"], second["meta"], share)
        mean["layout"] = first["layout"]
    return mean


def _mean(a: dict[str, Tensor], b: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    return {name: a[name].float().lerp(b[name].float(), share) for name in a}


if __name__ == "__main__":
    main()
