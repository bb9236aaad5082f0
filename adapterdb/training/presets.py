"""Named presets as files: TOML a user can read, copy, change, and give back by its path.

Each file in ``adapterdb/presets`` says in ``kind`` what it sets up: ``delta`` (how deltas are
made), ``meta-init``, ``camels``, ``gate`` or ``finetune`` (how shared parts are trained). This
module finds and reads them, and builds the dataclass of a kind from one; it knows none of those.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from adapterdb.errors import InvalidInput

FOLDER = Path(__file__).parents[1] / "presets"
KINDS = ("delta", "meta-init", "camels", "gate", "finetune")
T = TypeVar("T")


def preset_names(kind: str | None = None) -> list[str]:
    """Names of the shipped presets, sorted; of one kind where given."""
    found = sorted(path.stem for path in FOLDER.glob("*.toml"))
    return [name for name in found if kind is None or read_preset(name)["kind"] == kind]


def preset_path(name: str) -> Path:
    """The file of a shipped preset, or the user's own file where ``name`` is a path to one.

    Raises:
        InvalidInput: if there is neither; the message lists the shipped names.
    """
    own = Path(name).expanduser()
    if own.suffix == ".toml" and own.is_file():
        return own
    shipped = FOLDER / f"{name}.toml"
    if Path(name).name == name and shipped.is_file():
        return shipped
    raise InvalidInput(
        f"recipe {name!r} is neither a file nor one of {', '.join(preset_names())}",
        hint="'adb recipes' lists them; 'adb recipes NAME' prints one, to copy and change",
    )


def read_preset(name: str) -> dict[str, Any]:
    """The plain data of a preset; ``name`` is filled in from the file where it says none.

    Raises:
        InvalidInput: if it is missing, no TOML, or of no known ``kind``.
    """
    path = preset_path(name)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error
    if data.get("kind") not in KINDS:
        raise InvalidInput(f"{path}: kind {data.get('kind')!r} is not one of {', '.join(KINDS)}")
    return {"name": path.stem, **data}


def load_preset(kind: type[T], wanted: str, name: str) -> T:
    """The preset ``name`` as a ``kind``.

    Args:
        kind: a frozen dataclass whose fields are the preset's keys.
        wanted: what the preset's ``kind`` has to be.
        name: of a shipped preset, or a path.

    Raises:
        InvalidInput: for an unknown name or key, or a value that is not allowed.
    """
    data = read_preset(name)
    if data["kind"] != wanted:
        raise InvalidInput(
            f"recipe {name!r} is for {data['kind']}, not for {wanted}",
            hint=f"of that kind there are {', '.join(preset_names(wanted))}",
        )
    return build(kind, {k: v for k, v in data.items() if k != "kind"}, str(preset_path(name)))


def changed_preset(kind: type[T], wanted: str, name: str, changes: Mapping[str, Any]) -> T:
    """``load_preset`` with other values; those that are None stay as they are.

    Raises:
        InvalidInput: as ``load_preset``, or for a setting that it doesn't have.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    loaded: Any = load_preset(kind, wanted, name)
    if unknown := sorted(set(given) - set(vars(loaded))):
        raise InvalidInput(f"{wanted} has no setting {unknown[0]!r}")
    changed: T = replace(loaded, **given)
    return changed


def build(kind: type[T], data: Mapping[str, Any], where: str) -> T:
    """``kind(**data)`` with tables as nested dataclasses; unknown keys and wrong types are named.

    Raises:
        InvalidInput: naming key and value, and what is allowed.
    """
    hints = get_type_hints(kind)
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise InvalidInput(
                f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}"
            )
        values[key] = _value(hints[key], value, f"{where}: {key}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidInput(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as what the annotation ``hint`` asks for."""
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise InvalidInput(f"{where}: expected a table, found {value!r}")
        return build(hint, value, where)  # type: ignore[arg-type]
    if isinstance(value, list):
        return tuple(value)
    choices = get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        if value not in choices:
            raise InvalidInput(f"{where} is {value!r}; allowed are {', '.join(choices)}")
        return value
    allowed = choices if get_origin(hint) is not None else (hint,)
    plain = tuple(x for x in allowed if isinstance(x, type) and x in (int, float, str, bool))
    if plain:
        right = isinstance(value, plain) and (bool in plain or not isinstance(value, bool))
        if float in plain and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not right:
            names = " or ".join(x.__name__ for x in plain)
            raise InvalidInput(f"{where} is {value!r}; expected {names}")
    return value
