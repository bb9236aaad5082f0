"""Training `mini` on a GPU, from the shipped one: asking, reading, meta-training, in one call.

Reads `squad_v1/train.jsonl.gz` and, if it is there, xz-compressed Wikipedia from `--data`; needs
neither network nor the MiniLM package. Leaves the new model and its curves as parts of a tar file
that are small enough to be carried back:

    python gpu/mini.py --data carried --out "$OUT"
    mkdir new && cat parts/mini.tar.* | tar x -C new             # at home
    python -m recipes.mini.average adapterdb/models/mini new --out mean.pt

`recipes.mini.evaluate --aside` says which is better, the new one or the mean. Unpacked into the
shipped folder, another call goes on from there (`--read-minutes 0` reads no more).
"""

from __future__ import annotations

import argparse
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from recipes.mini import export, inventing, meta, prepare, reader
from recipes.mini.start import SHIPPED

PART = 15 * 2**20  # bytes


def main() -> None:
    """Train, export, pack."""
    parser = argparse.ArgumentParser(description="train mini on a GPU")
    parser.add_argument("--data", type=Path, required=True, help="holds squad_v1/train.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--invent-minutes", type=float, default=1)
    parser.add_argument("--read-minutes", type=float, default=3)
    parser.add_argument("--meta-minutes", type=float, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="a random small model, for a test")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        run = Path(folder)
        prepare.main(
            ["--data", str(options.data), "--text", str(options.data), "--out", str(run / "data")]
        )
        common = ["--run", str(run), "--device", options.device]
        inventing.main([*common, "--minutes", str(options.invent_minutes), "--batch", "256"])
        common += ["--save-minutes", "100", "--dropout", "0.1", "--mask", "0.15"]
        common += ["--unasked", "0.5"]
        common += ["--tiny"] if options.tiny else []
        if options.read_minutes:
            batch = ["--batch", str(options.batch), "--micro", str(options.batch)]
            minutes = ["--minutes", str(options.read_minutes), "--start", str(SHIPPED)]
            reader.main([*common, *batch, *minutes])
        steps = ["--tasks", str(options.tasks), "--minutes", str(options.meta_minutes)]
        if not options.read_minutes:
            steps += ["--start", str(SHIPPED)]
        elif not options.tiny:
            steps += ["--meta-init", str(SHIPPED / "meta_init.safetensors")]
        meta.main([*common, *steps])
        new = run / "mini"
        export.main(
            ["--checkpoint", str(run / "best.pt"), "--out", str(new)]
            + (["--tiny"] if options.tiny else [])
        )
        pack(new, options.out)


def pack(folder: Path, out: Path) -> None:
    """The folder's files as `mini.tar.00` and so on, each of at most `PART` bytes."""
    with TemporaryDirectory() as place:
        whole = Path(place) / "mini.tar"
        with tarfile.open(whole, "w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
        with whole.open("rb") as file:
            number = 0
            while part := file.read(PART):
                (out / f"mini.tar.{number:02}").write_bytes(part)
                number += 1


if __name__ == "__main__":
    main()
