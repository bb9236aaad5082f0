"""An OpenAI-compatible endpoint, against a server process."""

from __future__ import annotations

import socket
import time

import pytest
from chat_process import ChatServer

from adapterdb.errors import InvalidInput, ModelUnavailable
from adapterdb.ingest.augment.endpoint import Endpoint
from adapterdb.ingest.augment.generator import Sampling

PROMPTS = [
    f"Title: (none)\n<passage>\nHall {i}\n</passage>\nTake the passage apart" for i in range(9)
]


def test_texts_come_in_the_order_of_the_prompts(server: ChatServer) -> None:
    """Every option of a draw is sent; the key goes into the header."""
    sampling = Sampling(77, ("END",), 0.5, 3)
    texts = server.endpoint(key="k1").generate(PROMPTS, sampling)
    assert [text.splitlines()[-1] for text in texts] == [f"1. Hall {i}." for i in range(9)]
    [one] = [row for row in server.log() if "Hall 4" in row["messages"][0]["content"]]
    assert one["path"] == "/v1/chat/completions"
    assert (one["key"], one["model"]) == ("Bearer k1", "good")
    sent = (one["max_tokens"], one["stop"], one["temperature"], one["seed"])
    assert sent == (77, ["END"], 0.5, 3)


def test_no_key_no_header(server: ChatServer) -> None:
    """Without a key nothing is sent in its place."""
    server.endpoint().generate(PROMPTS[:1], Sampling())
    [row] = server.log()
    assert row["key"] == ""
    assert "stop" not in row


def test_a_busy_server_is_asked_again(server: ChatServer) -> None:
    """429 and 503 are passed over; each prompt is asked until it is answered, and no more."""
    texts = server.endpoint("busy").generate(PROMPTS[:2], Sampling())
    assert [text[-7:] for text in texts] == ["Hall 0.", "Hall 1."]
    assert len(server.log()) == 6


@pytest.mark.parametrize(
    ("model", "code", "requests"),
    [
        ("down", "endpoint_busy", 4),
        ("garbled", "endpoint_garbled", 4),
        ("shut", "endpoint_refused", 1),
    ],
)
def test_failures_have_codes_and_ends(
    server: ChatServer, model: str, code: str, requests: int
) -> None:
    """What may pass is tried again as often as allowed, a refusal never."""
    with pytest.raises(ModelUnavailable) as caught:
        server.endpoint(model).generate(PROMPTS[:1], Sampling())
    assert caught.value.code == code
    assert caught.value.hint
    assert len(server.log()) == requests


def test_a_slow_server_times_out(server: ChatServer) -> None:
    """An answer that takes longer than allowed counts as none."""
    began = time.perf_counter()
    with pytest.raises(ModelUnavailable, match=r"within 0\.2 s") as caught:
        server.endpoint("slow", timeout_s=0.2, retries=1).generate(PROMPTS[:1], Sampling())
    assert caught.value.code == "endpoint_unreachable"
    assert time.perf_counter() - began < 5
    assert server.endpoint("slow").generate(PROMPTS[:1], Sampling())


def test_nobody_there() -> None:
    """A port without a server is said to be unreachable."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ModelUnavailable) as caught:
            Endpoint(url, "m", retries=0).generate(["hello"], Sampling())
    assert caught.value.code == "endpoint_unreachable"


def test_the_key_is_not_shown(server: ChatServer) -> None:
    """Not in errors, though the server says it, nor in repr, name and fingerprint."""
    endpoint = server.endpoint("shut", key="secret-1234")
    with pytest.raises(ModelUnavailable) as caught:
        endpoint.generate(PROMPTS[:1], Sampling())
    assert "***" in caught.value.message
    shown = caught.value.message + repr(endpoint) + endpoint.name + endpoint.fingerprint
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("url", "model"),
    [("ftp://h/v1", "m"), ("http://", "m"), ("http://a:b@h/v1", "m"), ("http://h/v1?k=1", "m"),
     ("http://h/v1", "")],
)  # fmt: skip
def test_bad_addresses(url: str, model: str) -> None:
    """Other schemes, and secrets in the URL, are refused before anything is sent."""
    with pytest.raises(InvalidInput):
        Endpoint(url, model)
