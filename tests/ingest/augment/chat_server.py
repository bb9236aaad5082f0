"""A small server that speaks ``/v1/chat/completions``: run as a process, it prints its port.

The model's name says how it behaves. ``good`` answers by what it is asked; ``busy`` fails twice on
each prompt first (429, then 503); ``down`` always fails; ``garbled`` answers no JSON; ``slow``
takes a second; ``shut`` refuses, and says the key it was given. ``GET`` gives the requests so far.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOG: list[dict] = []
SEEN: Counter[str] = Counter()
LOCK = threading.Lock()


def answer(prompt: str, seed: int) -> str:
    """What a patient model would say; texts with "stubborn" in them come out wrong at first."""
    passage = prompt.partition("<passage>\n")[2].partition("\n</passage>")[0]
    fact = re.search(r"A fact from the passage: (.*)", prompt)
    about = fact[1] if fact else passage
    if "hopeless" in about or ("stubborn" in about and seed == 0):
        return "I would rather talk about the weather."
    count = int(next(iter(re.findall(r"(?:Write|Name|in|exactly) (\d{1,2}) ", prompt)), "0"))
    last = about.strip().rstrip(".").split()[-1] if about else ""
    if "What is this passage about?" in prompt:
        return "Harbour works."
    if "Take the passage apart" in prompt:
        facts = [s.strip() + "." for s in passage.split(".") if s.strip()]
        return "Here they are:\n" + "\n".join(f"{i}. {s}" for i, s in enumerate(facts, 1))
    if "reply with the single word SKIP" in prompt:
        return "SKIP" if "weather" in about else f"Q: What is said of {last}?\nA: {last}"
    if prompt.startswith("Topic:"):
        return "\n".join(f"{i}. asker of kind {i}" for i in range(1, count + 1))
    if "Imagine this asker:" in prompt:
        role = re.search(r"Imagine this asker: (.*)", prompt)[1]
        return "\n\n".join(f"Q: As {role}, number {i}: {about}?\nA: {last}" for i in range(count))
    if "Put the same question" in prompt:
        return "\n".join(
            f"**Q:** Way {i} to ask about {about}?\n**A:** {last}" for i in range(count)
        )
    if '"rewrite"' in prompt:
        qa = [
            {"question": f"{i}?", "answer": last, "full_answer": f"It is {last}."}
            for i in range(count)
        ]
        return json.dumps({"rewrite": f"Said anew: {passage}", "qa": qa})
    tags = json.dumps([f"Tag {i}" for i in range(count)])
    return f'Sure!\n```json\n{{"description": "A text on {last}.", "tags": {tags}}}\n```'


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def reply(self, status: int, body: str, **headers: str) -> None:
        """Send a whole reply."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self) -> None:
        """Say what was asked so far."""
        self.reply(200, json.dumps(LOG))

    def do_POST(self) -> None:
        """Answer as the model does."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, model = body["messages"][0]["content"], body["model"]
        key = self.headers.get("Authorization", "")
        with LOCK:
            LOG.append({"path": self.path, "key": key, **body})
            SEEN[model + prompt] += 1
            times = SEEN[model + prompt]
        if model == "busy" and times < 3:
            self.reply(429 if times == 1 else 503, "slow down", Retry_After="0")
        elif model == "down":
            self.reply(500, "out of order")
        elif model == "garbled":
            self.reply(200, '{"choices": [{"message"')
        elif model == "shut":
            self.reply(401, f"no such key: {key}")
        else:
            if model == "slow":
                time.sleep(1)
            text = answer(prompt, body["seed"])
            self.reply(200, json.dumps({"choices": [{"message": {"content": text}}]}))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
