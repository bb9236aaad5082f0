"""The command line: words to method calls. ``adb`` is the group, ``main`` the entry point."""

from adapterdb.cli.app import adb, main

__all__ = ["adb", "main"]
