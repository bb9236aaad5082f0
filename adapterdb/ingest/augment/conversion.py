"""Files of one format to a file of another: JSON Lines, a JSON array, CSV. See ``formats.py``."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapterdb.errors import Exists, InvalidInput, Rejected
from adapterdb.ingest.augment.formats import FORMATS, Material
from adapterdb.ingest.augment.lines import replace_lines

CSV_COLUMNS = ("text", "question", "answers")


def convert(sources: Sequence[Path], source: str, to: Path, target: str) -> dict[str, Any]:
    """Read records in one format and write them in another; the file is made whole or not at all.

    Returns:
        ``{"format", "records"}`` of what was written.

    Raises:
        InvalidInput: for a record that is not of the format, or if nothing comes of it.
        Exists: if ``to`` is there already.
    """
    if to.exists():
        raise Exists(f"{str(to)!r} exists already", hint="choose another name for --to")
    material = read_material(sources, source)
    records = list(FORMATS[target].write(material))
    if not records:
        raise InvalidInput(
            f"{source!r} records hold nothing that can be said as {target!r}",
            hint="questions become 'tasks', 'camels' or 'meteora'; facts 'rows' or"
            " 'knowledge-update'",
        )
    if target == "camels":
        _write_csv(to, records)
    else:
        replace_lines(to, records)
    return {"format": target, "records": len(records)}


def read_material(sources: Sequence[Path], source: str) -> Material:
    """What the files hold.

    Raises:
        InvalidInput: naming file and record.
    """
    material = Material()
    for path in sources:
        if not path.is_file():
            raise InvalidInput(f"there is no file {str(path)!r}")
        for number, record in enumerate(_records(path, source), 1):
            try:
                if not isinstance(record, dict):
                    raise TypeError(f"a {type(record).__name__}, no object")
                FORMATS[source].read(material, record)
            except Rejected as error:
                raise InvalidInput(f"{path} record {number}: {error.message}") from error
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                said = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise InvalidInput(f"{path} record {number} is not {source!r}: {said}") from error
    return material


def _records(path: Path, source: str) -> Iterator[Any]:
    """The records of a file, whichever way it holds them."""
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise InvalidInput(f"{path} is not UTF-8 text: {error}") from error
    if source == "camels":
        yield from _csv(path, text)
    elif text.lstrip().startswith("["):
        try:
            yield from json.loads(text)
        except ValueError as error:
            raise InvalidInput(f"{path} is not JSON: {error}") from error
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise InvalidInput(f"{path} line {number} is not JSON: {error}") from error


def _csv(path: Path, text: str) -> Iterator[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    missing = sorted(set(CSV_COLUMNS) - set(rows.fieldnames or ()))
    if missing:
        raise InvalidInput(f"{path} has no column {missing[0]!r}; needed: {', '.join(CSV_COLUMNS)}")
    try:
        yield from rows
    except csv.Error as error:
        raise InvalidInput(f"{path} line {rows.line_num} is not CSV: {error}") from error


def _write_csv(to: Path, records: Sequence[dict[str, Any]]) -> None:
    new = to.with_name(to.name + ".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(records)
    new.replace(to)
