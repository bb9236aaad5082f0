"""What holds on PostgreSQL alone: how the server is found, what it fails with, lost connections."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import store_making as making
from sqlalchemy import NullPool, create_engine, make_url, text

from adapterdb.errors import AdapterDBError, Corrupt, InvalidInput, Locked, StorageFailed
from adapterdb.store import Store, check
from adapterdb.store.upkeep.stats import measure

on_a_server = pytest.mark.postgres


def _url() -> str:
    url = making.new_catalog()
    assert url is not None
    return url


def _run(url: str, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def _said(error: AdapterDBError) -> str:
    return f"{error} {error!r} {error.hint} {error.to_dict()}"


@pytest.mark.sqlite
@pytest.mark.parametrize("url", ["postgresql://user:canary@127.0.0.1:1/db"])
def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path, url: str) -> None:
    """Connection refused is a storage failure with a hint, and nothing is made."""
    pytest.importorskip("psycopg")
    with pytest.raises(StorageFailed) as caught:
        Store.create(tmp_path / "home", making.INFO, catalog_url=url)
    assert caught.value.code == "catalog_unreachable"
    assert "127.0.0.1" in caught.value.message
    assert "PGPASSWORD" in caught.value.hint
    assert "canary" not in _said(caught.value)
    assert not (tmp_path / "home").exists()


@on_a_server
def test_a_home_remembers_its_server_but_no_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The password comes with a URL or from outside; it is in no file, error, log or repr."""
    caplog.set_level(logging.DEBUG)
    admin, canary, role = make_url(_url()), "canary/8d1e@:x", f"adb_test_{os.getpid()}"
    schema = dict(admin.query)["options"].split("=")[1]
    _run(
        admin.render_as_string(hide_password=False),
        f"CREATE ROLE {role} LOGIN PASSWORD '{canary}'",
        f"GRANT ALL ON SCHEMA {schema} TO {role}",
    )
    url = admin.set(username=role, password=canary).render_as_string(hide_password=False)
    parts = (canary, "canary", "8d1e")
    try:
        with Store.create(tmp_path, making.INFO, catalog_url=url) as store:
            making.add(store, "a", "alpha")
            known = f"{store!r} {vars(store)} {vars(store.sessions)} {measure(store)}"
            assert not any(part in known for part in parts)
        with pytest.raises(StorageFailed) as caught:
            Store.open(tmp_path)  # PGPASSWORD is another role's
        assert caught.value.code == "catalog_unreachable"
        assert role in caught.value.message
        wrong = admin.set(username=role, password="canary-wrong")
        with pytest.raises(StorageFailed) as refused:
            Store.open(tmp_path, catalog_url=wrong.render_as_string(hide_password=False))
        with Store.open(tmp_path, catalog_url=url) as store:
            assert [document.name for document in store.documents()] == ["a"]
        written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()).decode(
            errors="replace"
        )
        said = _said(caught.value) + _said(refused.value) + caplog.text
        assert role in written
        assert not any(part in written + said for part in parts)
    finally:
        _run(
            admin.render_as_string(hide_password=False),
            f"DROP OWNED BY {role} CASCADE",
            f"DROP ROLE {role}",
        )


@on_a_server
def test_stores_of_one_database_know_nothing_of_each_other(tmp_path: Path) -> None:
    """Two schemas, two stores; a schema that is taken or missing is refused."""
    first = _url()
    with (
        Store.create(tmp_path / "one", making.INFO, catalog_url=first) as one,
        making.make(tmp_path / "two") as two,
    ):
        making.add(one, "a", "alpha")
        making.add(two, "b", "beta")
        assert [d.name for d in one.documents()] == ["a"]
        assert [d.name for d in two.documents()] == ["b"]
    with pytest.raises(AdapterDBError) as caught:
        Store.create(tmp_path / "three", making.INFO, catalog_url=first)
    assert caught.value.code == "exists"
    with pytest.raises(AdapterDBError) as caught:
        Store.open(tmp_path / "two", catalog_url=first)
    assert caught.value.code == "store"
    schema = dict(make_url(first).query)["options"].split("=")[1]
    with pytest.raises(InvalidInput) as refused:
        Store.create(tmp_path / "four", making.INFO, catalog_url=first.replace(schema, "nowhere"))
    assert refused.value.code == "bad_catalog_url"


@on_a_server
def test_a_reading_transaction_may_not_write(tmp_path: Path) -> None:
    """The server itself refuses a change inside a transaction that only reads."""

    def change(store: Store) -> None:
        with store.sessions.reading() as session:
            session.execute(text("UPDATE clock SET seq = seq + 1"))

    with making.make(tmp_path) as store:
        with pytest.raises(StorageFailed) as caught:
            change(store)
        assert caught.value.code == "read_only"
        assert making.add(store, "a", "alpha").seq == 1


@on_a_server
def test_a_commit_is_durable_whatever_the_server_is_set_to(tmp_path: Path) -> None:
    """A server that would acknowledge before it has written is told to write first."""
    url = make_url(_url())
    options = dict(url.query)["options"]
    url = url.update_query_dict({"options": f"{options} -csynchronous_commit=off"})
    with Store.create(
        tmp_path, making.INFO, catalog_url=url.render_as_string(hide_password=False)
    ) as store:
        with store.sessions.writing() as session:
            assert session.scalar(text("SHOW synchronous_commit")) == "on"
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
        with store.sessions.reading() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"


@on_a_server
@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("53100", StorageFailed, "disk_full"),
        ("58030", StorageFailed, "io"),
        ("57P03", StorageFailed, "catalog_unreachable"),
        ("40001", Locked, "locked"),
        ("40P01", Locked, "locked"),
        ("XX001", Corrupt, "corrupt"),
    ],
)
def test_what_a_server_fails_with_has_our_codes(
    tmp_path: Path, state: str, kind: type[AdapterDBError], code: str
) -> None:
    """Full and failing disks, conflicts and damage are told apart as they are with SQLite."""
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'staged' USING ERRCODE = '{state}'; END $$"
    with making.make(tmp_path) as store:
        with pytest.raises(kind) as caught, store.sessions.writing() as session:
            session.execute(text(statement))
        assert caught.value.code == code
        assert "staged" in caught.value.message
        if code == "io":
            with pytest.raises(StorageFailed) as refused:
                making.add(store, "a", "alpha")
            assert refused.value.code == "needs_recovery"
        else:
            assert making.add(store, "a", "alpha").version == 1


@on_a_server
def test_a_lock_held_elsewhere_is_waited_for_not_for_ever(tmp_path: Path) -> None:
    """A writer that gets no turn fails as Locked, having changed nothing."""

    def want(store: Store) -> None:
        with store.sessions.writing() as session:
            session.execute(text("SET LOCAL lock_timeout = 50"))
            session.execute(text("UPDATE clock SET seq = seq"))

    with making.make(tmp_path) as store, Store.open(tmp_path) as other:
        with store.sessions.writing() as session:
            assert session.scalar(text("SHOW lock_timeout")) == "30s"
            session.execute(text("UPDATE clock SET seq = seq"))
            with pytest.raises(Locked):
                want(other)
        assert making.add(other, "a", "alpha").seq == 1


@on_a_server
def test_a_connection_lost_before_commit_leaves_nothing(tmp_path: Path) -> None:
    """The server ends the connection before COMMIT: not acknowledged, not there; then it works."""
    making.make(tmp_path).close()
    steps: list[str] = []

    def lose(step: str) -> None:
        steps.append(step)
        if step == "before_commit" and steps.count(step) == 1:
            with other.sessions.writing() as session:
                session.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                        " application_name = 'adapterdb' AND pid != pg_backend_pid()"
                        " AND datname = current_database()"
                    )
                )

    with Store.open(tmp_path) as other, Store.open(tmp_path, on_step=lose) as store:
        with pytest.raises(StorageFailed) as caught:
            making.add(store, "a", "alpha")
        assert caught.value.code == "catalog_unreachable"
        assert "committed" not in steps
        assert store.documents() == []
        assert making.add(store, "a", "alpha").version == 1
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []


@on_a_server
def test_a_connection_lost_while_committing_is_no_success(tmp_path: Path) -> None:
    """The connection ends inside COMMIT itself: the document is not acknowledged."""
    steps: list[str] = []
    url = _url()
    with Store.create(tmp_path, making.INFO, catalog_url=url):
        _run(
            url,
            "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER vanish AFTER INSERT ON document"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION vanish()",
        )
    with Store.open(tmp_path, on_step=steps.append) as store:
        with pytest.raises(StorageFailed) as caught:
            making.add(store, "a", "alpha")
        assert caught.value.code == "catalog_unreachable"
        assert steps[-1] == "before_commit"
        assert "make it again" in caught.value.hint
        assert store.documents() == []
        _run(url, "DROP TRIGGER vanish ON document")
        assert making.add(store, "a", "alpha").version == 1


@on_a_server
def test_housekeeping_minds_its_own_tables(tmp_path: Path) -> None:
    """Analysing and writing anew touch the store's tables alone, and lose nothing."""
    url = _url()
    with Store.create(tmp_path, making.INFO, catalog_url=url) as store:
        _run(url, "CREATE TABLE another (x int)")
        making.add(store, "a", "alpha")
        store.sessions.analyze()
        store.sessions.vacuum()
        store.sessions.truncate_log()
        with store.sessions.reading() as session:
            analyzed = session.scalars(
                text("SELECT relname FROM pg_class WHERE reltuples >= 0 AND relkind = 'r'")
            )
            names = set(analyzed)
        assert "document" in names
        assert "another" not in names
        assert [document.name for document in store.documents()] == ["a"]


SOME = (
    "test_store_postgres.py::test_a_home_remembers_its_server_but_no_password",
    "test_store_postgres.py::test_a_connection_lost_while_committing_is_no_success",
    "test_store_sessions.py::test_a_reading_transaction_sees_one_state",
    "test_store_sessions.py::test_names_sort_by_code_point",
    "test_store_commit.py::test_delete_is_seen_at_once_by_another_open_store",
)


@pytest.mark.sqlite
def test_a_server_started_for_this_test_passes(tmp_path: Path) -> None:
    """Where PostgreSQL is installed a server is started and some of the tests run on it."""
    if shutil.which("pg_virtualenv") is None:
        pytest.skip("pg_virtualenv is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg")
    here = Path(__file__).parent
    python = [sys.executable, "-m", "pytest", "-m", "postgres", "-p", "no:cacheprovider"]
    command = [*python, "--basetemp", str(tmp_path / "inner"), *(str(here / name) for name in SOME)]
    done = subprocess.run(
        ["pg_virtualenv", "-t", *command],
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert f"{len(SOME)} passed" in done.stdout
