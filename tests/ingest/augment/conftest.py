"""A chat server in a process of its own, and documents to write about."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapterdb.ingest.augment.endpoint import Endpoint


@dataclass(frozen=True)
class ChatServer:
    """Where it is."""

    url: str

    def endpoint(self, model: str = "good", **options: Any) -> Endpoint:
        """An endpoint that waits little."""
        given = {"threads": 4, "timeout_s": 20.0, "backoff_s": 0.01, "retries": 3, **options}
        return Endpoint(self.url, model, **given)

    def log(self) -> list[dict[str, Any]]:
        """Every request so far."""
        with urllib.request.urlopen(self.url + "/log") as reply:
            return json.load(reply)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A server that nobody has asked anything yet."""
    program = Path(__file__).with_name("chat_server.py")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield ChatServer(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
        process.terminate()
