"""Where the chat server of a test is, and what it was asked."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

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
