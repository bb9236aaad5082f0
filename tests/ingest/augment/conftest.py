"""A chat server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_process import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A server that nobody has asked anything yet."""
    program = Path(__file__).with_name("chat_server.py")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield ChatServer(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
        process.terminate()
