"""Every error AdapterDB raises on purpose.

    AdapterDBError
    ├── InvalidInput        a question, number, name or option outside what is allowed
    │   └── BadFilter       a ``--where`` text that can't be understood or isn't allowed
    ├── NotFound            a document, delta, namespace or home that isn't there
    ├── Exists              something is already where a new thing was to be made
    ├── Mismatch            base model, layout, embedder or format differ from what is stored
    ├── ModelUnavailable    a model folder or Hub id that can't be loaded
    ├── Rejected            one document that can't be taken in; the others go on
    ├── Corrupt             stored bytes that fail their checksum or their shape
    ├── StorageFailed       disk full, read-only, or another failure of the file system
    └── Locked              another process holds what this one needs

Each carries ``code``, a stable word that the command line, ``--json`` and callers branch on, and
``hint``, what to do about it.
"""

from __future__ import annotations


class AdapterDBError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what was wrong, with the value received and what is allowed.
        code: stable machine-readable word; defaults to the class's own.
        hint: what to do next, or an empty string.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def to_dict(self) -> dict[str, str]:
        """The error as the command line prints it under ``--json``."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InvalidInput(AdapterDBError):
    """A value from outside that is not allowed."""

    code = "invalid_input"


class BadFilter(InvalidInput):
    """A filter text that can't be parsed or uses something not allowed."""

    code = "bad_filter"


class NotFound(AdapterDBError):
    """The thing named does not exist."""

    code = "not_found"


class Exists(AdapterDBError):
    """The thing to be made exists already."""

    code = "exists"


class Mismatch(AdapterDBError):
    """What is stored was made with something else than what is loaded now."""

    code = "mismatch"


class ModelUnavailable(AdapterDBError):
    """A model or tokenizer can't be loaded from where it was named."""

    code = "model_not_found"


class Rejected(AdapterDBError):
    """One document can't be taken in; ``code`` says why, the rest of the batch goes on."""

    code = "rejected"


class Corrupt(AdapterDBError):
    """Stored bytes fail their checksum, shape or finiteness check."""

    code = "corrupt"


class StorageFailed(AdapterDBError):
    """The file system refused: full, read-only, or failing."""

    code = "storage_failed"


class Locked(AdapterDBError):
    """Another process holds the lock."""

    code = "locked"
