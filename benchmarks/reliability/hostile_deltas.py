"""Adapters from strangers: PEFT folders mutated and crafted to break whoever loads them (A1-A7).

``CRAFTED`` are functions that turn a good folder into a bad one, with the codes allowed; ``valid``
means that the folder still says what peft would load. ``mutate`` does one random thing to a folder.
"""

# ruff: noqa: E501 - tables of cases are easier to read in long lines

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapterdb.peft_format import CONFIG_FILE, WEIGHTS_FILE

PREFIX = "base_model.model."


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: dict[str, Any] | str | bytes, numbers: bytes) -> bytes:
    """A safetensors file of them."""
    text = json.dumps(header) if isinstance(header, dict) else header
    head = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(head)) + head + numbers


def _weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        path = folder / WEIGHTS_FILE
        path.write_bytes(change(path.read_bytes()))

    return craft


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(data: bytes) -> bytes:
        header, numbers = split(data)
        return joined(change(header) or header, numbers)

    return _weights(changed)


def _config(**fields: Any) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        path = folder / CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return craft


def _config_text(change: Callable[[str], str]) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        path = folder / CONFIG_FILE
        path.write_text(change(path.read_text()), "utf-8", "surrogatepass")

    return craft


def _only(name: str, data: bytes) -> Callable[[Path], None]:
    """The weights under another name and format alone."""

    def craft(folder: Path) -> None:
        (folder / WEIGHTS_FILE).unlink()
        (folder / name).write_bytes(data)

    return craft


def pickle_that_makes(canary: Path) -> bytes:
    """A pickle (protocol 0, written by hand) that makes the file ``canary`` when it is loaded."""
    return f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()


def _zip(names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return out.getvalue()


def _npz(canary: Path) -> bytes:
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + pickle_that_makes(canary)
    return _zip({"a.npy": array})


def _renamed(header: dict[str, Any], name: str) -> dict[str, Any]:
    key = next(k for k in header if k.startswith(PREFIX))
    return {(name if k == key else k): v for k, v in header.items()}


def _entry(header: dict[str, Any], **fields: Any) -> None:
    header[next(k for k in header if k.startswith(PREFIX))].update(fields)


def _twice(data: bytes) -> bytes:
    header, numbers = split(data)
    key = next(k for k in header if k.startswith(PREFIX))
    text = json.dumps(header)[:-1] + f", {json.dumps(key)}: {json.dumps(header[key])}}}"
    return joined(text, numbers)


def _with(values: bytes) -> Callable[[bytes], bytes]:
    """The first numbers replaced by ``values``."""

    def change(data: bytes) -> bytes:
        header, numbers = split(data)
        return joined(header, values + numbers[len(values) :])

    return change


def _dtype(name: str, size: int) -> Callable[[bytes], bytes]:
    """Every tensor said to be, and as long as, ``name`` of ``size`` bytes."""

    def change(data: bytes) -> bytes:
        header, _ = split(data)
        at = 0
        for key, entry in header.items():
            if key != "__metadata__":
                length = size * entry["shape"][0] * entry["shape"][1]
                entry |= {"dtype": name, "data_offsets": [at, at + length]}
                at += length
        return joined(header, struct.pack("<d", 1e300) * (at // 8) + bytes(at % 8))

    return change


def _without(letter: str) -> Callable[[bytes], bytes]:
    """The tensors of one letter left out."""

    def change(data: bytes) -> bytes:
        header, numbers = split(data)
        kept, out = {}, b""
        for key, entry in header.items():
            if key == "__metadata__" or f".lora_{letter}." in key:
                continue
            first, last = entry["data_offsets"]
            kept[key] = entry | {"data_offsets": [len(out), len(out) + last - first]}
            out += numbers[first:last]
        return joined(kept, out)

    return change


def _link(name: str, target: str) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return craft


def _fifo(name: str) -> Callable[[Path], None]:
    def craft(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return craft


def _as_folder(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    (folder / WEIGHTS_FILE).mkdir()


def _sparse(folder: Path) -> None:
    with (folder / WEIGHTS_FILE).open("r+b") as file:
        file.truncate(2**38)


def _moved(folder: Path) -> None:
    """Both files behind links, as in the cache of the Hub."""
    blobs = folder.parent / f"{folder.name}-blobs"
    blobs.mkdir()
    for i, name in enumerate((CONFIG_FILE, WEIGHTS_FILE)):
        (folder / name).rename(blobs / str(i))
        (folder / name).symlink_to(f"../{blobs.name}/{i}")


def _many_tensors(data: bytes) -> bytes:
    names = (f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(600_000))
    return joined("{" + ",".join(names) + "}", b"")


NAN, INF = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
SCHEMA, NOT_LORA = "layout_mismatch", "not_lora"
ZERO_SIZE = {"shape": [0, 2**62], "data_offsets": [0, 0]}


def crafted(canary: Path) -> dict[str, tuple[Callable[[Path], None], str]]:
    """Name to what is done and the code allowed; the canary is what a pickle would make."""
    pickled = pickle_that_makes(canary)
    torch_zip = _zip({"archive/data.pkl": pickled, "archive/version": b"3\n"})
    return {
        "nothing changed": (lambda folder: None, "valid"),
        "behind links": (_moved, "valid"),
        "pickle": (_weights(lambda data: pickled), NOT_LORA),
        "torch zip": (_weights(lambda data: torch_zip), NOT_LORA),
        "npz": (_weights(lambda data: _npz(canary)), NOT_LORA),
        "adapter_model.bin": (_only("adapter_model.bin", pickled), "not_found"),
        "adapter_model.pt": (_only("adapter_model.pt", torch_zip), "not_found"),
        "pickle beside": (lambda f: (f / "adapter_model.bin").write_bytes(pickled), "valid"),
        "code beside": (lambda f: (f / "modeling.py").write_text(f"open({str(canary)!r}, 'w')"), "valid"),
        "pickle, then safetensors": (_weights(lambda data: pickled + data), NOT_LORA),
        "safetensors, then pickle": (_weights(lambda data: data + pickled), NOT_LORA),
        "zip after safetensors": (_weights(lambda data: data + torch_zip), NOT_LORA),
        "pickle as metadata": (
            _header(lambda h: h | {"__metadata__": {"x": pickled.decode()}}), "valid"),
        "pickle as config": (
            lambda f: (f / CONFIG_FILE).write_bytes(pickled), "invalid_input"),
        "header of 100 MB": (_weights(lambda data: struct.pack("<Q", 10**8) + data[8:]), NOT_LORA),
        "header of 2^64 - 1": (_weights(lambda data: b"\xff" * 8 + data[8:]), NOT_LORA),
        "header of nothing": (_weights(lambda data: bytes(8)), NOT_LORA),
        "100 MB of blanks": (_weights(lambda data: joined("{}" + " " * 10**8, b"")), SCHEMA),
        "1 MB of blanks": (_header(lambda h: json.dumps(h) + " " * 10**6), "valid"),
        "600,000 tensors": (_weights(_many_tensors), SCHEMA),
        "10,000 tensors": (
            _header(lambda h: h | {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                                   for i in range(10_000)}), SCHEMA),
        "no tensors": (_weights(lambda data: joined("{}", b"")), SCHEMA),
        "empty file": (_weights(lambda data: b""), NOT_LORA),
        "seven bytes": (_weights(lambda data: data[:7]), NOT_LORA),
        "name with ../": (_header(lambda h: _renamed(h, "../../etc/passwd")), SCHEMA),
        "name with NUL": (_header(lambda h: _renamed(h, PREFIX + "layers.0.up\0.lora_A.weight")), SCHEMA),
        "name without prefix": (_header(lambda h: _renamed(h, "layers.0.up.lora_A.weight")), SCHEMA),
        "name of 1 MB": (_header(lambda h: _renamed(h, "n" * 900_000)), SCHEMA),
        "name twice": (_weights(_twice), NOT_LORA),
        "zero-size dimension": (_header(lambda h: _entry(h, **ZERO_SIZE)), SCHEMA),
        "zero-size extra": (_header(lambda h: h | {"x": {"dtype": "F32", **ZERO_SIZE}}), SCHEMA),
        "shape overflow": (_header(lambda h: _entry(h, shape=[2**62, 2**62])), SCHEMA),
        "negative shape": (_header(lambda h: _entry(h, shape=[-2, -20])), SCHEMA),
        "float shape": (_header(lambda h: _entry(h, shape=[2.0, 20.0])), SCHEMA),
        "shape nested": (_header(lambda h: _entry(h, shape=[[2, 20]])), SCHEMA),
        "offsets overlap": (_header(lambda h: _entry(h, data_offsets=[8, 168])), NOT_LORA),
        "offsets huge": (_header(lambda h: _entry(h, data_offsets=[0, 2**63])), NOT_LORA),
        "header nested": (_weights(lambda data: joined("[" * 100_000, b"")), NOT_LORA),
        "header a list": (_weights(lambda data: joined("[]", b"")), NOT_LORA),
        "header not UTF-8": (_weights(lambda data: joined(b'{"\xff": 1}', b"")), NOT_LORA),
        "entry a string": (_header(lambda h: h | {PREFIX + "layers.0.up.lora_A.weight": "x"}), SCHEMA),
        "NaN": (_weights(_with(NAN)), "non_finite"),
        "infinity": (_weights(_with(INF)), "non_finite"),
        "float64 beyond float32": (_weights(_dtype("F64", 8)), SCHEMA),
        "int32": (_weights(_dtype("I32", 4)), SCHEMA),
        "bool": (_weights(_dtype("BOOL", 1)), SCHEMA),
        "complex": (_weights(_dtype("C64", 8)), SCHEMA),
        "float8": (_weights(_dtype("F8_E4M3", 1)), SCHEMA),
        "A without B": (_weights(_without("B")), SCHEMA),
        "B without A": (_weights(_without("A")), SCHEMA),
        "alpha NaN": (_config_text(lambda t: t.replace('"lora_alpha": 4.0', '"lora_alpha": NaN')), "invalid_input"),
        "alpha of 400 digits": (_config(lora_alpha=10**400), NOT_LORA),
        "alpha 1e300": (_config(lora_alpha=1e300), NOT_LORA),
        "alpha text": (_config(lora_alpha="4"), NOT_LORA),
        "rank true": (_config(r=True), NOT_LORA),
        "rank 0": (_config(r=0), NOT_LORA),
        "rank huge": (_config(r=10**18), SCHEMA),
        "rank 1": (_config(r=1), SCHEMA),
        "config twice": (_config_text(lambda t: t.replace('"r": 2', '"r": 2, "r": 2')), "invalid_input"),
        "config deep": (_config_text(lambda t: "[" * 100_000), "invalid_input"),
        "config a list": (_config_text(lambda t: "[]"), NOT_LORA),
        "config surrogate": (_config_text(lambda t: t.replace("LORA", "\ud800")), "invalid_input"),
        "config of 2 MB": (_config_text(lambda t: t + " " * 2**21), SCHEMA),
        "auto_map": (_config(auto_map={"AutoModel": "evil/repo--x.Y"}), NOT_LORA),
        "base by URL": (_config(base_model_name_or_path="https://example.org/x"), NOT_LORA),
        "unknown key": (_config(use_new_thing=True), NOT_LORA),
        "dora": (_config(use_dora=True), NOT_LORA),
        "rslora": (_config(use_rslora=True), NOT_LORA),
        "rank pattern": (_config(rank_pattern={"up": 8}), NOT_LORA),
        "pissa": (_config(init_lora_weights="pissa"), NOT_LORA),
        "layer replication": (_config(layer_replication=[[0, 2]]), NOT_LORA),
        "targets by expression": (_config(target_modules="(a+)+$"), NOT_LORA),
        "targets of other modules": (_config(target_modules=["down"]), SCHEMA),
        "targets missing": (_config(target_modules=None), NOT_LORA),
        "layers of another": (_config(target_modules=["up", "down"], layers_to_transform=[7]), SCHEMA),
        "folder for a file": (_as_folder, "not_found"),
        "weights a FIFO": (_fifo(WEIGHTS_FILE), "not_found"),
        "config a FIFO": (_fifo(CONFIG_FILE), "not_found"),
        "weights link to /dev/zero": (_link(WEIGHTS_FILE, "/dev/zero"), "not_found"),
        "weights link to a file": (_link(WEIGHTS_FILE, "/etc/passwd"), NOT_LORA),
        "config link to a file": (_link(CONFIG_FILE, "/etc/passwd"), "invalid_input"),
        "link to itself": (_link(WEIGHTS_FILE, WEIGHTS_FILE), "unreadable"),
        "256 GB, sparse": (_sparse, SCHEMA),
    }  # fmt: skip


KEYS = ("r", "lora_alpha", "peft_type", "bias", "target_modules", "fan_in_fan_out", "use_dora",
        "init_lora_weights", "layers_to_transform", "auto_map", "modules_to_save", "x",
        "base_model_name_or_path", "exclude_modules", "task_type", "lora_dropout")  # fmt: skip
VALUES = (None, True, False, 0, 1, 2, -1, 3, 4.0, 1e308, "", "LORA", "none", "all", "all-linear",
          [], {}, ["up"], ["layers.0.up"], ["layers.0.up", "layers.0.down"], [0], "https://x.y/z",
          "https", 10**30, [[]], {"a": 1}, "\ud800", "\0")  # fmt: skip
NAMES = ("F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E5M2", "", None, 3)


def mutate(folder: Path, source: random.Random) -> str:
    """Do one thing, or a few of a kind, to a good folder; says what."""
    path = folder / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    kind = source.choice(("cut", "flip", "flip", "byte", "insert", "entry", "entry", "config", "config",
                          "text", "number", "swap"))  # fmt: skip
    if kind == "cut":
        del data[source.randrange(len(data)) :]
    elif kind == "flip":
        for _ in range(source.choice((1, 1, 1, 2, 8))):
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    elif kind == "byte":
        data[source.randrange(min(len(data), 600))] = source.randrange(256)
    elif kind == "insert":
        at = source.randrange(len(data))
        data[at:at] = source.randbytes(source.choice((1, 4, 100)))
    elif kind == "number":
        values = (float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, 0.0)
        at = len(data) - 4 * source.randrange(1, 60)
        data[at : at + 4] = struct.pack("<f", source.choice(values))
    elif kind in ("entry", "swap"):
        header, numbers = split(bytes(data))
        keys = [key for key in header if key != "__metadata__"]
        if kind == "swap":
            a, b = source.sample(keys, 2)
            header[a], header[b] = header[b], header[a]
        else:
            entry = header[source.choice(keys)]
            field = source.choice(("dtype", "shape", "data_offsets"))
            numbers_ = [source.choice((0, 1, 2, 12, 20, -1, 2**31, 2**62)) for _ in range(2)]
            entry[field] = source.choice(NAMES) if field == "dtype" else numbers_
        data = bytearray(joined(header, numbers))
    path.write_bytes(data)
    config = folder / CONFIG_FILE
    if kind == "config":
        changed = json.loads(config.read_text()) | {source.choice(KEYS): source.choice(VALUES)}
        config.write_text(json.dumps(changed))
    elif kind == "text":
        text = bytearray(config.read_bytes())
        text[source.randrange(len(text))] = source.randrange(256)
        config.write_bytes(text)
    return kind
