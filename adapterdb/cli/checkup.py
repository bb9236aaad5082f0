"""What ``adb doctor`` looks at: the installation, the home, and the models it was made with.

A check that can't be made because another failed, or because it broke, says so rather than pass.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from adapterdb.cli.output import size
from adapterdb.cli.settings import Settings
from adapterdb.errors import AdapterDBError
from adapterdb.home import Home
from adapterdb.records import Record

Status = Literal["pass", "warn", "fail", "could-not-run"]
LOW_BYTES, FULL_BYTES = 10**9, 50 * 10**6
_STATUS: dict[str, Status] = {"error": "fail", "warning": "warn", "note": "warn"}


@dataclass(frozen=True)
class Check(Record):
    """One thing looked at: how it is, in a word and in words, and what mends it."""

    name: str
    status: Status
    what: str
    mend: str = ""


def checkup(settings: Settings) -> list[Check]:
    """Every check of the installation and of the home that ``settings`` name."""
    checks = [
        *_safely("command", _command),
        *_safely("packages", _packages),
        *_safely("device", lambda: _device(settings)),
    ]
    home: Home | None = None
    try:
        home = Home.open(settings.path, settings.catalog, settings.load_options(), read_only=True)
        checks.append(Check("home", "pass", f"{settings.path} opens"))
    except AdapterDBError as error:
        checks.append(Check("home", "fail", error.message, error.hint))
    for name, look in _HOME_CHECKS.items():
        if home is None:
            checks.append(Check(name, "could-not-run", "there is no open home"))
            continue
        checks += _safely(name, lambda look=look, home=home: look(home))  # type: ignore[misc]
    if home is not None:
        home.store.close()
    return checks


def _safely(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """What ``look`` finds; an error AdapterDB knows is a failed check, any other a broken one."""
    try:
        return list(look())
    except AdapterDBError as error:
        return [Check(name, "fail", error.message, error.hint)]
    except Exception as error:  # whatever else breaks a check must not end the others
        return [Check(name, "could-not-run", f"{type(error).__name__}: {error}")]


def _command() -> Iterator[Check]:
    ours = Path(sysconfig.get_path("scripts")) / "adb"
    found = shutil.which("adb")
    if found is None:
        mend = f"add {ours.parent} to PATH, or use 'python -m adapterdb'"
        yield Check("command", "warn", "the shell finds no 'adb'", mend)
    elif Path(found).resolve() != ours.resolve():
        what = f"the shell's 'adb' is {found}, not {ours}: perhaps Android's tool"
        yield Check("command", "warn", what, "type 'adapterdb' instead of 'adb'")
    else:
        yield Check("command", "pass", f"the shell's 'adb' is {found}")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    bad: list[str] = []
    good: list[str] = []
    for text in requires("adapterdb") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            bad.append(f"{wanted.name} is missing")
            continue
        fits = wanted.specifier.contains(found, prereleases=True)
        (good if fits else bad).append(f"{wanted.name} {found}")
    if bad:
        yield Check("packages", "fail", ", ".join(bad), "pip install --upgrade adapterdb")
    yield Check("packages", "pass", f"adapterdb {version('adapterdb')}, {', '.join(good)}")


def _device(settings: Settings) -> Iterator[Check]:
    from adapterdb.base_model import choose_device

    cores, threads = os.cpu_count(), os.environ.get("OMP_NUM_THREADS", "all")
    device = choose_device(settings.device)
    yield Check("device", "pass", f"{device}; {cores} cores, threads: {threads}")


def _space(home: Home) -> Iterator[Check]:
    free = shutil.disk_usage(home.path).free
    status: Status = "fail" if free < FULL_BYTES else "warn" if free < LOW_BYTES else "pass"
    yield Check("space", status, f"{size(free)} free", "" if status == "pass" else "make room")
    if os.access(home.path, os.W_OK):
        yield Check("writable", "pass", f"{home.path} can be written")
    else:
        yield Check("writable", "warn", f"{home.path} can't be written", "chmod u+w, or only ask")


def _store(home: Home) -> Iterator[Check]:
    from adapterdb.store.upkeep.check import check

    findings = check(home.store)
    for finding in findings:
        status = _STATUS[finding.severity]
        yield Check("store", status, f"{finding.what} [{finding.code}]", finding.mend)
    if not findings:
        yield Check("store", "pass", "catalog, weight files and index agree")


def _base(home: Home) -> Iterator[Check]:
    base = home.base
    what = f"{base.name}, {base.dtype} on {base.device}, fingerprint {base.fingerprint}"
    yield Check("base model", "pass", what)


def _embedder(home: Home) -> Iterator[Check]:
    what = f"{home.config.embedder}, fingerprint {home.embedder.fingerprint}"
    yield Check("embedder", "pass", what)


def _start(home: Home) -> Iterator[Check]:
    what = f"recipe {home.config.recipe}, fingerprint {home.start.fingerprint}"
    yield Check("shared start", "pass", what)


_HOME_CHECKS: dict[str, Callable[[Home], Iterator[Check]]] = {
    "space": _space,
    "store": _store,
    "base model": _base,
    "embedder": _embedder,
    "shared start": _start,
}
