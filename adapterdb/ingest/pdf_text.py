"""The text of a PDF, parsed in a process of its own with bounded time, memory and output.

A PDF is a program for its reader: small ones can ask for gigabytes or hours. What the child does is
in ``pdf_child.py``; here it is started, waited for, and believed no more than the file was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from adapterdb.errors import Rejected

PDF_SECONDS = 60.0
PDF_MEMORY_BYTES = 2**30
CODES = ("encrypted_pdf", "too_large", "bomb", "broken_pdf")
_CHILD = Path(__file__).with_name("pdf_child.py")


class PdfText(NamedTuple):
    """Title, and the text of the pages with blank lines between them."""

    title: str
    text: str


def pdf_text(data: bytes, limit_chars: int) -> PdfText:
    """What the PDF ``data`` says.

    Raises:
        Rejected: ``needs_extra``, ``encrypted_pdf``, ``too_large``, ``bomb`` or ``broken_pdf``.
    """
    library = find_spec("pypdf")
    if library is None or library.origin is None:
        raise Rejected("reading PDF needs pypdf: pip install 'adapterdb[pdf]'", code="needs_extra")
    limits = PDF_MEMORY_BYTES, max(1, int(PDF_SECONDS)), limit_chars
    command = [sys.executable, "-I", str(_CHILD), *map(str, limits)]
    # files, not pipes: nobody waits for anybody, and the child's limit of file size holds
    with TemporaryFile() as given, TemporaryFile() as said:
        given.write(data)
        given.seek(0)
        try:
            subprocess.run(
                [*command, str(Path(library.origin).parents[1])],
                stdin=given,
                stdout=said,
                stderr=subprocess.DEVNULL,
                timeout=PDF_SECONDS,
                check=True,
                cwd="/",
                env={},
            )
        except subprocess.TimeoutExpired as error:
            raise Rejected(
                f"parsing takes over {PDF_SECONDS:g} seconds", code="broken_pdf"
            ) from error
        except subprocess.CalledProcessError as error:
            raise Rejected(
                f"the PDF broke its reader (status {error.returncode})", code="broken_pdf"
            ) from error
        said.seek(0)
        return _answer(said.read())


def _answer(said: bytes) -> PdfText:
    try:
        match json.loads(said):
            case {"code": str(code), "message": str(message)} if code in CODES:
                raise Rejected(message[:500], code=code)
            case {"title": str(title), "text": str(text)}:
                return PdfText(title, text)
    except (ValueError, RecursionError):
        pass
    raise Rejected("the PDF can't be parsed", code="broken_pdf")
