"""The visible text of an HTML page.

A scanner of its own instead of ``html.parser``: that one needs quadratic time on broken pages
(Python 3.11.7 did not finish 300 kB of ``<a <a <a`` in minutes) and pages come from strangers. This
one looks at every character a bounded number of times, and needs only the names of tags.
"""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from typing import NamedTuple

HIDDEN = frozenset(["script", "style", "nav", "template", "noscript", "svg", "iframe", "object"])
RAW = frozenset(["script", "style", "noscript", "iframe"])  # hold no tags, end at their end tag
LINES = frozenset(["br", "li", "tr", "dt", "dd", "option", "figcaption", "caption", "hr"])
BLOCKS = frozenset(
    """
    address article aside blockquote body details div dl fieldset figure footer form h1 h2 h3 h4 h5
    h6 header main ol p pre section summary table tbody thead title ul
    """.split()  # noqa: SIM905 - thirty quoted words hide the words
)

_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)")
_REST = re.compile(r"""(?:[^>"']|"[^"]*"|'[^']*')*+>""")  # possessive: never looks back
_SPACE = re.compile(r"[ \t\r\n\f]+")
_NO_CHARACTER = re.compile(r"&#[0-9]{20,};?")  # Python refuses to read very long numbers


class Page(NamedTuple):
    """The words of a page; blocks are parted by newlines."""

    title: str
    text: str


def html_text(page: str) -> Page:
    """Title and visible text of ``page``; what browsers run, hide or use to navigate is skipped."""
    out = _Output()
    position, quotes_close = 0, True
    while (start := page.find("<", position)) >= 0:
        out.add(page[position:start])
        tag = _TAG.match(page, start)
        if tag is None:
            position = _skip_declaration(page, start)
            if position == start:
                out.add("<")
                position += 1
            continue
        rest = _REST.match(page, tag.end()) if quotes_close else None
        quotes_close = rest is not None  # after one open quote they are ignored: stays linear
        end = rest.end() if rest else page.find(">", tag.end()) + 1
        position = end or len(page)
        name = tag[2].lower()
        if tag[1]:
            out.close(name)
        else:
            out.open(name)
            if name in RAW:
                closing = re.compile(f"</{name}", re.IGNORECASE).search(page, position)
                position = closing.start() if closing else len(page)
    out.add(page[position:])
    return Page(_SPACE.sub(" ", "".join(out.title)).strip(), out.text())


def _skip_declaration(page: str, start: int) -> int:
    """The end of the comment, doctype or the like at ``start``, or ``start`` if there is none."""
    if page.startswith("<!--", start):
        end = page.find("-->", start + 4)
        return end + 3 if end >= 0 else len(page)
    if page.startswith(("<!", "<?", "</"), start):
        return page.find(">", start) + 1 or len(page)
    return start


class _Output:
    """Collects text while tags open and close."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.title: list[str] = []
        self.hidden: list[str] = []  # open hidden elements; text counts when there is none
        self.hidden_counts: Counter[str] = Counter()
        self.preformatted = 0
        self.in_title = False

    def open(self, name: str) -> None:
        if name in HIDDEN:
            self.hidden.append(name)
            self.hidden_counts[name] += 1
        self.preformatted += name == "pre"
        self.in_title = name == "title" and not self.title and not self.hidden
        self.part(name)

    def close(self, name: str) -> None:
        if self.hidden_counts[name]:  # counted, for a search per tag would be quadratic
            closed = ""
            while closed != name:
                closed = self.hidden.pop()
                self.hidden_counts[closed] -= 1
        self.preformatted -= name == "pre" and self.preformatted > 0
        self.in_title = self.in_title and name != "title"
        self.part(name)

    def part(self, name: str) -> None:
        if self.hidden:
            return
        if name in BLOCKS:
            self.pieces.append("\n\n")
        elif name in LINES:
            self.pieces.append("\n")
        elif name in ("td", "th"):
            self.pieces.append(" ")

    def add(self, data: str) -> None:
        if self.hidden or not data:
            return
        data = unescape(_NO_CHARACTER.sub("\ufffd", data))
        if self.in_title:
            self.title.append(data)
        elif self.preformatted:
            self.pieces.append(data)
        else:
            data = _SPACE.sub(" ", data)
            if data.startswith(" ") and (not self.pieces or self.pieces[-1][-1] in " \n"):
                data = data[1:]
            if data:
                self.pieces.append(data)

    def text(self) -> str:
        text = re.sub(r"[ \t]+\n", "\n", "".join(self.pieces).replace("\r\n", "\n"))
        return re.sub(r"\n{3,}", "\n\n", text).strip()
