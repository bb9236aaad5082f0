"""The tests of the store run on SQLite, and again on PostgreSQL where a server can be reached.

A server is one that PGHOST names (`pg_virtualenv -t sh -c 'pytest tests/store'` starts one), or the
URL in ADB_TEST_POSTGRES. Every store made there has a schema of its own, in a database that sorts
words as people do: only there it shows whether names are compared by code point.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from uuid import uuid4

import defects
import pytest
import store_making as making
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text

DATABASE = f"adb_test_{os.getpid()}"
SORTED_BY_PEOPLE = (
    f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'"
    " LOCALE_PROVIDER icu ICU_LOCALE 'en' LC_COLLATE 'C' LC_CTYPE 'C'"
)


@cache
def server() -> URL | None:
    """The server to test with; its password goes where a home without one finds it."""
    given = os.environ.get("ADB_TEST_POSTGRES")
    if given is None and "PGHOST" not in os.environ:
        return None
    url = make_url(given or "postgresql://").set(drivername="postgresql+psycopg")
    if url.password is not None:
        os.environ["PGPASSWORD"] = str(url.password)
    return url


def connect(database: str | None = None) -> Connection:
    """A connection of its own, outside any transaction."""
    url = server()
    assert url is not None
    chosen = url if database is None else url.set(database=database)
    engine = create_engine(chosen, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    return engine.connect()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once for each kind of catalog; without a server, as if there were but one kind."""
    if server() is not None and "catalog_kind" in metafunc.fixturenames:
        kinds = [pytest.param("postgres", marks=pytest.mark.postgres)]
        if metafunc.definition.get_closest_marker("postgres") is None:
            kinds.insert(0, pytest.param("sqlite"))
        metafunc.parametrize("catalog_kind", kinds, indirect=True)


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """A database for this run."""
    with connect() as connection:
        connection.execute(text(SORTED_BY_PEOPLE))
    yield DATABASE
    with connect() as connection:
        connection.execute(text(f"DROP DATABASE {DATABASE} WITH (FORCE)"))


@pytest.fixture(autouse=True)
def catalog_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where ``store_making.make`` keeps the catalogs of this test."""
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        if request.node.get_closest_marker("postgres"):
            pytest.skip("no PostgreSQL server: neither PGHOST nor ADB_TEST_POSTGRES is set")
        yield kind
        return
    about_sqlite = request.node.get_closest_marker("sqlite")
    if about_sqlite:
        pytest.skip("it is about SQLite's files")
    database = request.getfixturevalue("database")
    made: list[str] = []

    def new_catalog() -> str:
        schema = f"t{uuid4().hex[:12]}"
        with connect(database) as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
        made.append(schema)
        url = server()
        assert url is not None
        url = url.set(database=database).update_query_dict({"options": f"-csearch_path={schema}"})
        return url.render_as_string(hide_password=False)

    monkeypatch.setattr(making, "new_catalog", new_catalog)
    yield kind
    with connect(database) as connection:
        for schema in made:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))


@pytest.fixture(scope="session")
def sqlite_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound home to copy."""
    home = tmp_path_factory.mktemp("sound") / "home"
    defects.make_home(home)
    return home


@pytest.fixture
def sound_home(request: pytest.FixtureRequest, tmp_path: Path, catalog_kind: str) -> Path:
    """The home of ``defects.make_home``, for one test."""
    home = tmp_path / "home"
    if catalog_kind == "sqlite":
        shutil.copytree(request.getfixturevalue("sqlite_home"), home)
    else:
        defects.make_home(home)
    return home
