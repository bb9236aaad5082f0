"""The documentation holds what the commands are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from adapterdb.cli import adb

ROOT = Path(__file__).parents[1]


def generator() -> ModuleType:
    """``docs/generate.py`` as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMANDS: dict[str, click.Command] = dict(generator().commands(adb))


def test_the_commands_page_is_up_to_date() -> None:
    """``docs/commands.md`` is what ``python docs/generate.py`` writes."""
    module = generator()
    assert module.FILE.read_text(encoding="utf-8") == module.commands_page()


def test_every_option_is_on_the_commands_page() -> None:
    """Each option of each command, and the shared ones, is described."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for command in (adb, *COMMANDS.values()):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, f"{command.name} {parameter.opts} has no help"
                assert all(name in page for name in parameter.opts)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_an_example_and_a_place_in_the_readme(name: str) -> None:
    """The docstring shows a use of the command; the README's table names it."""
    example = (COMMANDS[name].help or "").partition("Example:\n")[2]
    assert f"adb {name}" in example
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{name.split()[0]}\b", readme, re.MULTILINE)


def test_the_readme_names_every_folder_of_the_package() -> None:
    """Whoever looks for a room finds it in the tree."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in (ROOT / "adapterdb").glob("*/__init__.py")]
    assert [name for name in folders if f"{name}/" not in readme] == []


def test_links_lead_somewhere() -> None:
    """Relative links of the Markdown pages point to files that exist."""
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_programs_and_tests_that_hold_a_method_exist() -> None:
    """Every path that ``docs/methods.md`` and ``docs/engine.md`` name in code is there."""
    pages = (ROOT / "docs" / f"{name}.md" for name in ("methods", "engine"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    named = re.findall(r"`((?:tests|benchmarks|gpu|training)/[\w/]+(?:\.py)?)`", text)
    assert len(named) > 40
    places = (ROOT, ROOT / "adapterdb")
    assert [n for n in named if not any((place / n).exists() for place in places)] == []
