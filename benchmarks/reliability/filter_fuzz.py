"""T14: a filter finds what a plain reading of it finds, or is refused; a question only ever fits.

A store has two namespaces, ``a`` and ``b``, with the same names and metadata; every text of ``b``
holds a canary. Each payload is asked of ``a`` by listing, by vector and by text. The answer must be
``BadFilter``, or the documents that ``hostile_filters.meets`` finds; nothing else may be raised,
nothing of ``b`` be seen, nothing take over 2 seconds.

    python benchmarks/reliability/filter_fuzz.py [--random 1000] [--questions 2000] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")

import hostile_filters as hostile
import small_store
from case_runner import CaseRunner

from adapterdb.answers import check_question
from adapterdb.errors import BadFilter, InvalidInput
from adapterdb.store import Store, parse_filter

CANARY = "canary"
SECONDS = 2.0
METADATA: dict[str, dict[str, Any]] = {
    "a/one.md": {"year": 2019, "tag": ["law", "tax"], "lang": "en", "draft": False},
    "a/two.md": {"year": 2021, "tag": ["law"], "lang": "en", "draft": True, "score": 0.5},
    "b/three_.md": {"year": "2021", "lang": "de", "note": "it's 50% done", "x y": "law"},
    "b/threeX.md": {"score": 1e300, "lang": "\u00fc", "\u00fc": "x", "draft": "true"},
    "' OR 1=1 --.md": {"tag": ["' OR '1'='1", "%", "_", "\\", "caf\u00e9"], "year": -5},
    "none.md": {},
    "empty.md": {"tag": [], "lang": "", "x'y": "law", 'x"y': "law"},
}


def make_home(home: Path) -> None:
    """The store that is asked."""
    with small_store.create(home) as store:
        for namespace, mark in (("a", "words"), ("b", CANARY)):
            texts = {name: f"{mark} of text {i}" for i, name in enumerate(METADATA)}
            small_store.add(store, texts, namespace=namespace, metadata=METADATA)


class Asked:
    """Asks one store, opened when the first case arrives."""

    store: Store | None = None

    def __call__(self, case: tuple[str, str, str]) -> tuple[str, str]:
        """What became of a case, and what is wrong with it."""
        home, kind, text = case
        if Asked.store is None:
            Asked.store = Store.open(Path(home), read_only=True)
        return (self.filter if kind == "filter" else self.question)(Asked.store, text)

    def filter(self, store: Store, where: str) -> tuple[str, str]:
        """What namespace ``a`` answers under a filter, against a plain reading of it."""
        try:
            tree = parse_filter(where)
        except BadFilter as error:
            return "refused", "" if len(error.message) < 300 else "the message is long"
        wanted = set()
        for document in store.documents("a"):
            columns = {name: getattr(document, name) for name in hostile.COLUMNS}
            if hostile.meets(tree, columns, METADATA[document.name]):
                wanted.add(document.name)
        vector = small_store.vector(where.encode("utf-8", "replace").decode())
        hits = [
            *store.search_vectors("a", vector, 20, where=where),
            *store.search_text("a", f"words {CANARY}", 20, where=where),
        ]
        if any(hit.passage.namespace != "a" or CANARY in hit.passage.text for hit in hits):
            return "answered", "a foreign row is found"
        listed = {document.name for document in store.documents("a", where=where)}
        found = {hit.passage.document for hit in hits}
        if listed != wanted or found != wanted:
            return "answered", f"finds {sorted(listed)} and {sorted(found)}, not {sorted(wanted)}"
        return "answered", ""

    def question(self, store: Store, text: str) -> tuple[str, str]:
        """Whether a text may be asked, and what text search makes of it in any case."""
        try:
            check_question(text)
            became = "asked"
        except InvalidInput:
            became = "refused"
        hits = store.search_text("a", text, 20)  # any text is safe, says the store
        foreign = any(CANARY in hit.passage.text for hit in hits)
        return became, "a foreign row is found" if foreign else ""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--random", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    source = random.Random(options.seed)
    payloads = hostile.payloads()
    cases = [("filter", text) for text in payloads]
    cases += [("filter", hostile.random_filter(source)) for _ in range(options.random)]
    cases += [("question", hostile.random_question(source)) for _ in range(options.questions)]
    failures, became, slowest = list[str](), Counter[str](), (0.0, "")
    with tempfile.TemporaryDirectory() as base, CaseRunner(Asked(), 10 * SECONDS) as runner:
        home = Path(base) / "home"
        make_home(home)
        runner.run((str(home), "filter", "version = 1"))  # imports LanceDB
        for kind, text in cases:
            outcome = runner.run((str(home), kind, text))
            wrong = outcome.failed or outcome.value[1]
            if not wrong and outcome.seconds > SECONDS:
                wrong = f"took {outcome.seconds:.1f} s"
            became[f"{kind} {outcome.value[0] if outcome.value else 'failed'}"] += 1
            slowest = max(slowest, (outcome.seconds, ascii(text[:60])))
            if wrong:
                failures.append(f"{kind} {text[:200]!a}: {wrong}")
                print("WRONG", failures[-1], flush=True)
    result = {
        "test": "T14",
        "seed": options.seed,
        "payloads": len(payloads),
        "random": options.random,
        "questions": options.questions,
        "became": dict(became.most_common()),
        "slowest_s": [round(slowest[0], 3), slowest[1]],
        "failures": failures,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["failures"] else 0)
