"""Writes ``commands.md`` from the commands themselves: ``python docs/generate.py``."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from adapterdb.cli import adb

FILE = Path(__file__).with_name("commands.md")
HEAD = """# Commands

Written by `docs/generate.py`; a test holds it to the code. `adb`, `adapterdb` and
`python -m adapterdb` are the same. Every option also reads an environment variable: `--mode` of
`adb ask` reads `ADB_ASK_MODE`, the options of every command read `ADB_DATABASE`, `ADB_JSON` and so
on. The command line wins.

Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted (what was committed is kept, the same
command goes on). Results go to stdout, the rest to stderr. With `--json` a failure prints
`{"error": {"code", "message", "hint"}}` on stderr.
"""


def commands_page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD, "## Options of every command\n", _options(adb)]
    parts += [_section(name, command) for name, command in commands(adb)]
    return "\n".join(parts)


def commands(group: click.Group, prefix: str = "") -> list[tuple[str, click.Command]]:
    """Every command below ``group`` with its whole name, groups before what is in them."""
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        found.append((prefix + name, command))
        if isinstance(command, click.Group):
            found += commands(command, f"{prefix}{name} ")
    return found


def _section(name: str, command: click.Command) -> str:
    words, _, example = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    arguments = " ".join(
        p.make_metavar(click.Context(command))
        for p in command.params
        if isinstance(p, click.Argument)
    )
    usage = f"adb {name} [OPTIONS] {arguments}".rstrip()
    block = inspect.cleandoc(example)
    return (
        f"## adb {name}\n\n`{usage}`\n\n{words.strip()}\n\n"
        f"```sh\n{block}\n```\n\n{_options(command)}"
    )


def _options(command: click.Command) -> str:
    rows = [
        f"| `{_cell(_names(p))}` | {_cell(p.help or '')} |"
        for p in command.params
        if isinstance(p, click.Option) and not p.hidden
    ]
    return "\n".join(["| Option | Meaning |", "|---|---|", *rows, ""]) if rows else ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _names(option: click.Option) -> str:
    names = ", ".join(option.opts)
    if option.secondary_opts:
        names += "/" + "/".join(option.secondary_opts)
    if option.is_flag or option.count:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(option.type.choices)}"
    return f"{names} {option.metavar or option.type.name.upper()}"


if __name__ == "__main__":
    FILE.write_text(commands_page(), encoding="utf-8")
