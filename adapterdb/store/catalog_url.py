"""The URL of a catalog: what is accepted, and what of it may be written down.

A URL may hold a password. No error repeats a URL, and a home remembers it without the password,
which is then taken from PGPASSWORD, a .pgpass file, or a URL given again.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from adapterdb.errors import InvalidInput

POSTGRES = ("postgresql+psycopg", "postgresql", "postgres")
SECRET = ("password", "sslpassword")
FORMS = "postgresql://USER@HOST:PORT/DATABASE or sqlite:////FOLDER/FILE"


def parse(text: str) -> URL:
    """A catalog's URL; InvalidInput (code ``bad_catalog_url``) if it is not one we can use."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _bad("the catalog's URL can't be understood") from None
    if any("@" in (part or "") for part in (url.host, url.database)):
        raise _bad("the catalog's URL has two @")
    if url.drivername in POSTGRES:
        return url.set(drivername=POSTGRES[0])
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    raise _bad(f"the catalog can't be kept in {url.drivername[:40]!r}")


def without_secrets(text: str) -> str:
    """The URL as a home remembers it: no password, no relative path."""
    url = parse(text)
    file = url.database
    if url.get_backend_name() == "sqlite":
        file = str(Path(file or "").resolve())
    url = URL.create(
        url.drivername,
        username=url.username,
        host=url.host,
        port=url.port,
        database=file,
        query={name: value for name, value in url.query.items() if name not in SECRET},
    )
    return url.render_as_string(hide_password=False)


def _bad(message: str) -> InvalidInput:
    hint = f"give {FORMS}; in a password @ is written %40, / %2F and : %3A"
    return InvalidInput(message, code="bad_catalog_url", hint=hint)
