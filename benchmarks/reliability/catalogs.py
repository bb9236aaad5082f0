"""Where the catalogs of homes made for a test lie: in the homes, or on a PostgreSQL server."""

from __future__ import annotations

import os
from typing import Self
from uuid import uuid4

from sqlalchemy import URL, NullPool, create_engine, make_url, text


class Catalogs:
    """A schema of its own for each home, all in one database that is dropped at the end.

    Args:
        postgres: on the server that PGHOST and its kin name, as inside ``pg_virtualenv``.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._url: URL | None = None
        if postgres:
            self._url = make_url("postgresql+psycopg://")
            self._database = f"adb_reliability_{os.getpid()}"

    def __enter__(self) -> Self:
        if self._url is not None:
            self._run(f"CREATE DATABASE {self._database} TEMPLATE template0 ENCODING 'UTF8'")
        return self

    def __exit__(self, *_: object) -> None:
        if self._url is not None:
            self._run(f"DROP DATABASE {self._database} WITH (FORCE)")

    def new(self) -> str | None:
        """The URL of an empty catalog; None: SQLite in the home."""
        if self._url is None:
            return None
        schema = f"s{uuid4().hex[:12]}"
        self._run(f"CREATE SCHEMA {schema}", self._database)
        url = self._url.set(database=self._database)
        found = url.update_query_dict({"options": f"-csearch_path={schema}"})
        return found.render_as_string(hide_password=False)

    def _run(self, statement: str, database: str | None = None) -> None:
        assert self._url is not None
        url = self._url if database is None else self._url.set(database=database)
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
