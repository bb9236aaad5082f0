"""Any OpenAI-compatible endpoint as a text generator: ``POST BASE_URL/chat/completions``.

Speaks HTTP with httpx2, which huggingface_hub brings along anyway; the ``openai`` package would add
dependencies for the sake of one request. The key is sent in a header and kept nowhere else: not in
the name, the fingerprint, errors, or the journal. Redirects are not followed: it goes to one host.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from adapterdb.errors import InvalidInput, ModelUnavailable
from adapterdb.ingest.augment.generator import Sampling, Skill

RETRIED = frozenset([408, 409, 425, 429, 500, 502, 503, 504, 529])
QUOTED_CHARS = 200  # of what a server says in an error


@dataclass(frozen=True)
class Endpoint:
    """A model behind a URL.

    Args:
        base_url: up to and without ``/chat/completions``, for instance
            ``http://localhost:8000/v1``.
        model: its name there.
        key: sent as a bearer token; empty for none.
        threads: requests under way at once.
        timeout_s: of one request.
        retries: of one request after 429, 5xx, a timeout, a broken connection or a garbled answer.
        backoff_s: before the first retry; doubled each time, at most a minute; a server's
            ``Retry-After`` counts if it is longer.

    Raises:
        InvalidInput: for a URL that is not http(s), or that holds a password or a query.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False, compare=False)
    threads: int = 8
    timeout_s: float = 120.0
    retries: int = 5
    backoff_s: float = 1.0

    skill: Skill = field(default="instructions", init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"the endpoint {self.base_url!r} is no http:// or https:// URL")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InvalidInput(
                "the endpoint's URL must hold no user, password, query or fragment",
                hint="give the key in an environment variable",
            )
        if not self.model:
            raise InvalidInput("an endpoint needs the name of a model", hint="give --model NAME")

    @property
    def name(self) -> str:
        """Model and host."""
        return f"{self.model} at {urlsplit(self.base_url).netloc}"

    @property
    def fingerprint(self) -> str:
        """URL and model: what runs behind them is not ours to know."""
        return f"{self.base_url.rstrip('/')}#{self.model}"

    @property
    def at_once(self) -> int:
        """Two requests for each thread."""
        return 2 * self.threads

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        """As `TextGenerator.generate`.

        Raises:
            ModelUnavailable: code ``endpoint_refused`` (the key, the model or the request),
                ``endpoint_unreachable``, ``endpoint_busy`` or ``endpoint_garbled`` (after the
                last retry).
        """
        library, stopped = _library(), threading.Event()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        pool = ThreadPoolExecutor(self.threads)
        with library.Client(
            headers=headers, timeout=self.timeout_s, follow_redirects=False
        ) as client:
            try:
                waiting = [
                    pool.submit(self._ask, client, prompt, sampling, stopped) for prompt in prompts
                ]
                return [each.result() for each in waiting]
            finally:
                stopped.set()
                pool.shutdown(cancel_futures=True)

    def _ask(self, client: Any, prompt: str, sampling: Sampling, stopped: threading.Event) -> str:
        """The text for one prompt, after as many tries as are allowed before ``stopped``."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        for attempt in range(self.retries + 1):
            found = self._once(client, body)
            if isinstance(found, str):
                return found
            if attempt == self.retries or found.final or stopped.is_set():
                raise ModelUnavailable(
                    self._without_key(f"{self.name}: {found.message}"),
                    code=found.code,
                    hint=_HINTS[found.code],
                )
            stopped.wait(max(min(self.backoff_s * 2**attempt, 60.0), found.wait_s))
        raise AssertionError("the last try returns or raises")

    def _once(self, client: Any, body: dict[str, Any]) -> str | _Failure:
        library = _library()
        try:
            reply = client.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body)
        except library.TimeoutException:
            return _Failure("endpoint_unreachable", f"no answer within {self.timeout_s} s")
        except library.HTTPError as error:  # also a reply that is no HTTP
            return _Failure("endpoint_unreachable", f"{type(error).__name__}: {error}")
        if reply.status_code != 200:
            final = reply.status_code not in RETRIED
            code = "endpoint_refused" if final else "endpoint_busy"
            said = " ".join(reply.text.split())[:QUOTED_CHARS]
            wait_s = _seconds(reply.headers.get("Retry-After", ""))
            return _Failure(code, f"status {reply.status_code}: {said}", wait_s, final)
        try:
            text = reply.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            said = " ".join(reply.text.split())[:QUOTED_CHARS]
            return _Failure("endpoint_garbled", f"the answer is no chat completion: {said}")
        return text.strip()

    def _without_key(self, message: str) -> str:
        """A server may say the key it refuses."""
        return message.replace(self.key, "***") if self.key else message


def _library() -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise ModelUnavailable(
            "an endpoint needs the package httpx2",
            code="needs_extra",
            hint="pip install 'adapterdb[endpoint]'",
        ) from error
    return httpx2


@dataclass(frozen=True)
class _Failure:
    code: str
    message: str
    wait_s: float = 0.0
    final: bool = False


_HINTS = {
    "endpoint_refused": "check the URL, --model, and the variable that holds the key",
    "endpoint_unreachable": "check the URL and that the server runs; run the same command again",
    "endpoint_busy": "run the same command again later: what was written is kept",
    "endpoint_garbled": "is this the base URL of an OpenAI-compatible server?",
}


def _seconds(text: str) -> float:
    """A ``Retry-After`` in seconds, at most five minutes; a date counts as none."""
    return min(float(text), 300.0) if text.isdecimal() else 0.0
