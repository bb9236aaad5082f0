"""A disk, replayed from system calls: what programs see, and what a power cut would leave of it.

Each file has the bytes that were written and those of its last sync; each folder has the names that
were made and those of its own last sync. POSIX promises no more: syncing a file does not make its
name durable, and a rename lasts only once its folder is synced.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.reliability.trace import Call

Loss = Literal["missing", "empty", "old", "mixed"]
LOSSES: tuple[Loss, ...] = ("missing", "empty", "old", "mixed")
TRACED = (
    "openat,write,writev,pwrite64,pwritev,ftruncate,lseek,fsync,fdatasync,rename,renameat,renameat2"
    ",link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile,fallocate"
)


@dataclass(eq=False)
class Node:
    """A file, by its bytes now and at its last sync (None: never synced)."""

    now: bytearray
    synced: bytes | None

    def zeroed(self) -> bytes:
        """Lengths reached the disk, data not: unsynced bytes are zeros or what was there before.

        A file never synced is empty.
        """
        if self.synced is None:
            return b""
        return (self.synced + bytes(len(self.now)))[: len(self.now)]


@dataclass
class Disk:
    """Everything below ``root``.

    Attributes:
        names: path to file, or to None for a folder, as programs see them.
        durable: the same as of the last sync of each folder.
    """

    root: Path
    names: dict[Path, Node | None] = field(default_factory=dict)
    durable: dict[Path, Node | None] = field(default_factory=dict)
    _at: dict[int, int] = field(default_factory=dict)  # descriptor: where write() goes on

    @classmethod
    def of(cls, root: Path) -> Disk:
        """The disk as it is now, all of it synced."""
        disk = cls(root)
        for path in sorted(root.rglob("*")):
            data = None if path.is_dir() else path.read_bytes()
            disk.names[path] = None if data is None else Node(bytearray(data), data)
        disk.durable = dict(disk.names)
        return disk

    def play(self, call: Call) -> None:
        """Do what a system call did."""
        if call.failed or not call.touches(self.root):
            return
        name = call.name
        if name == "openat":
            self._open(call)
        elif name in ("write", "writev", "pwrite64", "pwritev"):
            self._write(call)
        elif name == "lseek":
            self._at[call.descriptor] = call.value
        elif name == "ftruncate":
            node, size = self._node(call), int(call.arguments.split(", ")[1])
            if node:
                node.now[:] = (node.now + bytes(max(0, size - len(node.now))))[:size]
        elif name in ("fsync", "fdatasync"):
            self._sync(Path(call.behind))
        elif name.startswith(("rename", "link")):
            source, target = (Path(text.decode()) for text in call.strings[:2])
            self._rename(source, target, keep=name.startswith("link"))
        elif name.startswith("mkdir"):
            self.names[Path(call.strings[0].decode())] = None
        elif name.startswith("unlink") or name == "rmdir":
            self.names.pop(self._named(call), None)
        else:
            raise ValueError(f"{name} is not understood: {call.arguments[:100]}")

    def image(self, loss: Loss, chance: random.Random) -> dict[Path, bytes | None]:
        """What a power cut now would leave: path to bytes, None for a folder.

        missing  names and bytes as last synced, nothing more
        empty    names as they are, unsynced bytes lost (zeros; never synced: an empty file)
        old      names removed or replaced without a sync are back, new ones are there; bytes as
                 last synced
        mixed    for each name and each file one of these by chance
        """
        found: dict[Path, bytes | None] = {}
        for path in sorted(self.names.keys() | self.durable.keys()):
            way = chance.choice(LOSSES[:3]) if loss == "mixed" else loss
            if way == "missing":
                there, node = path in self.durable, self.durable.get(path)
            elif way == "empty":
                there, node = path in self.names, self.names.get(path)
            else:
                there = True
                node = self.durable[path] if path in self.durable else self.names[path]
            if there:
                found[path] = None if node is None else _left(node, way)
        # a name in a folder that is not there is lost with it
        for path in sorted(found):
            if path.parent != self.root and path.parent not in found:
                del found[path]
        return found

    def now(self) -> dict[Path, bytes | None]:
        """What programs see."""
        return {
            path: None if node is None else bytes(node.now) for path, node in self.names.items()
        }

    def _open(self, call: Call) -> None:
        path = Path(call.behind)
        if "O_CREAT" in call.arguments:
            self.names.setdefault(path, Node(bytearray(), None))
        node = self.names.get(path)
        if node is None:
            return  # a folder
        if "O_TRUNC" in call.arguments:
            node.now.clear()
        self._at[call.value] = len(node.now) if "O_APPEND" in call.arguments else 0

    def _write(self, call: Call) -> None:
        data = b"".join(call.strings)[: call.value]
        if call.name.startswith("pwrite"):
            at = int(call.arguments.rsplit(", ", 1)[1], 0)
        else:
            at = self._at.get(call.descriptor, 0)
            self._at[call.descriptor] = at + len(data)
        node = self._node(call)
        if node:
            node.now.extend(bytes(max(0, at - len(node.now))))
            node.now[at : at + len(data)] = data

    def _node(self, call: Call) -> Node | None:
        """The file behind a descriptor; None if its name is gone."""
        return self.names.get(Path(call.behind))

    def _sync(self, path: Path) -> None:
        node = self.names.get(path)
        if node is not None:
            node.synced = bytes(node.now)
            return
        for known in [known for known in self.durable if known.parent == path]:
            if known not in self.names:
                del self.durable[known]
        self.durable |= {name: node for name, node in self.names.items() if name.parent == path}

    def _rename(self, source: Path, target: Path, *, keep: bool) -> None:
        moved = [name for name in self.names if name == source or source in name.parents]
        for name in moved:
            node = self.names[name] if keep else self.names.pop(name)
            self.names[target / name.relative_to(source)] = node

    def _named(self, call: Call) -> Path:
        given = Path(call.strings[0].decode())
        return given if given.is_absolute() else Path(call.behind) / given


def _left(node: Node, way: Loss) -> bytes:
    return node.zeroed() if way == "empty" else node.synced or b""


def lay_out(image: dict[Path, bytes | None], root: Path, folder: Path) -> None:
    """Write an image of ``root`` into ``folder``."""
    for path, data in sorted(image.items()):
        place = folder / path.relative_to(root)
        if data is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
