"""The process that parses one PDF. Run as a script by ``pdf_text.py``; imports nothing of ours.

    stdin    the PDF
    stdout   one JSON object: {"title", "text"}, or {"code", "message"}

Arguments: bytes of memory, seconds of processor time, characters of text, and the folder that holds
pypdf. A crash, a leak or an endless loop in the parser ends this process and nothing else.
"""

import io
import json
import resource
import sys
from contextlib import suppress


def main(memory_bytes: int, seconds: int, limit_chars: int, library: str) -> dict[str, str]:
    """What is to be said about the PDF on stdin."""
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 12 * limit_chars + 2**16),  # of \\ud83d\\ude00, JSON's longest
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # macOS has no limit of memory
            resource.setrlimit(kind, (value, value))
    sys.path.append(library)
    import pypdf

    size, pages = 0, []
    try:
        reader = pypdf.PdfReader(io.BytesIO(sys.stdin.buffer.read()), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            return {"code": "encrypted_pdf", "message": "the PDF wants a password"}
        for page in reader.pages:
            pages.append(page.extract_text().replace("\0", ""))  # unknown glyphs
            size += len(pages[-1])
            if size > limit_chars:
                message = f"over {limit_chars} characters of text"
                return {"code": "too_large", "message": message}
        title = reader.metadata.title if reader.metadata else None
    except (MemoryError, pypdf.errors.LimitReachedError) as error:
        message = f"a stream of the PDF is too large: {str(error) or 'out of memory'}"
        return {"code": "bomb", "message": message}
    except Exception as error:  # on damaged files pypdf raises whatever its parsing ran into
        return {"code": "broken_pdf", "message": f"the PDF can't be parsed: {error}"}
    return {"title": str(title or ""), "text": "\n\n".join(pages).strip()}


if __name__ == "__main__":
    memory, seconds, limit, library = sys.argv[1:]
    json.dump(main(int(memory), int(seconds), int(limit), library), sys.stdout)
