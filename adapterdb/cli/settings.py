"""The options every command takes, before and after its name, and what they come to.

The group and each command carry the same options. A value on the command line beats one from the
environment, wherever it stands; later beats earlier.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from adapterdb.cli.process import OWN_PROCESS, prepare
from adapterdb.config import FILE_NAME

if TYPE_CHECKING:
    from adapterdb.database import AdapterDB
    from adapterdb.home import LoadOptions

HOME = ".adapterdb"
CONTEXT = {
    "auto_envvar_prefix": "ADB",
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
Params = ParamSpec("Params")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """What the shared options come to.

    Args:
        database: the home folder as given, or None to look for it.
        catalog: SQLAlchemy URL, or None for SQLite in the home.
        json: print records for programs.
        quiet: only errors on stderr; verbose: 1 for more, 2 for library logs and tracebacks.
        threads: of torch, BLAS and Lance; None means the smaller of 4 and the cores.
        device, dtype: where and in what numbers models run.
        color: whether colours may be used.
    """

    database: str | None = None
    catalog: str | None = field(default=None, repr=False)  # may hold a password
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    color: bool = True

    @classmethod
    def of(cls, ctx: click.Context) -> Settings:
        """The settings given so far on the command line of ``ctx`` and in the environment."""
        return cls(**{name: value for name, (_, value) in ctx.meta.items() if name in _NAMES})

    @property
    def path(self) -> Path:
        """The home: as given, else the nearest ``.adapterdb`` here or above, else the one here."""
        if self.database is not None:
            return Path(self.database)
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / HOME / FILE_NAME).is_file():
                return folder / HOME
        return Path(HOME)

    def load_options(self, *, allow_download: bool = False) -> LoadOptions:
        """How models are loaded."""
        from adapterdb.home import LoadOptions

        return LoadOptions(device=self.device, dtype=self.dtype, allow_download=allow_download)

    def open(self, *, read_only: bool = False) -> AdapterDB:
        """The database the settings name."""
        from adapterdb.database import AdapterDB

        return AdapterDB.open(
            self.path, catalog=self.catalog, options=self.load_options(), read_only=read_only
        )

    def open_to_ask(self) -> AdapterDB:
        """The same; where the home can't be written, for reading only: it still answers."""
        return self.open(read_only=self.path.is_dir() and not os.access(self.path, os.W_OK))


_NAMES = tuple(Settings.__dataclass_fields__)
_EXPLICIT = ("COMMANDLINE", "ENVIRONMENT")  # best first; a default is never kept


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep a given value for ``Settings.of``, unless a better source has given one."""
    assert param.name is not None
    source = ctx.get_parameter_source(param.name)
    if source is None or source.name not in _EXPLICIT:
        return
    rank = _EXPLICIT.index(source.name)
    before = ctx.meta.get(param.name)  # ``meta`` is shared by the group and its command
    if before is None or rank <= before[0]:
        ctx.meta[param.name] = (rank, value)


def _option(*names: str, **facts: Any) -> click.Option:
    return click.Option(list(names), expose_value=False, callback=_keep, **facts)


SHARED: list[click.Parameter] = [
    _option(
        "-d", "--database", metavar="PATH",
        help="Home folder. Default: the nearest .adapterdb here or above.  [env: ADB_DATABASE]",
    ),
    _option(
        "--catalog", metavar="URL",
        help="SQLAlchemy URL of the catalog. Default: SQLite in the home.  [env: ADB_CATALOG]",
    ),
    _option("--json", is_flag=True, help="Print JSON for programs."),
    _option("-q", "--quiet", is_flag=True, help="Only errors on stderr."),
    _option("-v", "--verbose", count=True, help="More on stderr; -vv with library logs."),
    _option(
        "--threads", type=click.IntRange(1, 1024), metavar="N",
        help="Threads of torch, BLAS and Lance. Default: min(4, cores).  [env: ADB_THREADS]",
    ),
    _option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.  [env: ADB_DEVICE]"),
    _option(
        "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]),
        help="Numbers the base model runs in.",
    ),
    _option(
        "--color/--no-color", default=True,
        help="Colours on a terminal; NO_COLOR also turns them off.",
    ),
]  # fmt: skip


def _hidden(option: click.Parameter) -> click.Parameter:
    """The same option, not shown: the help of a command is about the command."""
    quiet = copy(option)
    assert isinstance(quiet, click.Option)
    quiet.hidden = True
    return quiet


def with_example(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Have click print the example of the docstring as it stands, not as running text."""
    function.__doc__ = (function.__doc__ or "").replace("    Example:\n", "    \b\n    Example:\n")
    return function


def shared(
    function: Callable[Concatenate[Settings, Params], Result],
) -> Callable[Params, Result]:
    """Give a command the shared options; its first argument becomes the ``Settings``."""

    @with_example
    @wraps(function)
    def run(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        ctx = click.get_current_context()
        settings = Settings.of(ctx)
        if os.environ.get("NO_COLOR") or not settings.color:
            ctx.color = False
        if ctx.obj is OWN_PROCESS:
            prepare(
                quiet=settings.quiet,
                verbose=settings.verbose,
                threads=settings.threads,
                offline=not kwargs.get("allow_download"),
            )
        return function(settings, *args, **kwargs)

    wrapped: Any = run
    given = getattr(function, "__click_params__", [])
    wrapped.__click_params__ = [*map(_hidden, reversed(SHARED)), *given]
    return wrapped  # type: ignore[no-any-return]
