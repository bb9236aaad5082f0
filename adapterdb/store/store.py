"""The store: what is committed, in which order, and how it is found again.

    write_rows   weight file written, synced, renamed, folders synced
    commit       one SQL transaction: files still there? old version retired, new rows, outbox.
                 Its COMMIT is the acknowledgement
    apply_outbox outbox into the index; may come late, may be repeated, may fail

A crash before COMMIT leaves at most an orphaned file; a crash after it leaves work for the outbox.
SQL is the only truth: the index is derived, and every hit is joined back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from adapterdb.errors import Corrupt, InvalidInput, NotFound
from adapterdb.records import Change, Delta, StoredDocument, check_int
from adapterdb.store.applier import Applier
from adapterdb.store.catalog import Catalog
from adapterdb.store.changes import Changes
from adapterdb.store.claims import Claims
from adapterdb.store.filters import Where, as_filter
from adapterdb.store.finder import Finder
from adapterdb.store.folders import Folders
from adapterdb.store.index import Index
from adapterdb.store.locks import held
from adapterdb.store.norms import Norms
from adapterdb.store.opening import make, open_catalog
from adapterdb.store.outbox import Outbox
from adapterdb.store.passages import Passages, Scope
from adapterdb.store.reserve import Reserve
from adapterdb.store.rows import (
    NewDocument,
    PassageRow,
    RowRef,
    Scored,
    StoreInfo,
    Vector,
)
from adapterdb.store.sessions import Sessions
from adapterdb.store.versions import check_new, no_document
from adapterdb.store.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

STEPS = (
    "claimed",
    "staged",
    "synced",
    "renamed",
    "durable",
    "before_commit",
    "committed",
    "index_put",
    "index_built",
    "index_pointed",
    "outbox_cleared",
)
MAX_HITS = 10_000


class Store:
    """Documents, passages and deltas of one home folder. Safe for use by several threads.

    Made by ``Store.create`` and ``Store.open``.

    Attributes:
        home: its folder.
        paths: what lies where in the folder.
        info: what the store was made for.
        uuid: of this store.
        read_only: nothing is written, not even the index.
    """

    def __init__(
        self,
        folders: Folders,
        sessions: Sessions,
        *,
        read_only: bool,
        on_step: Callable[[str], None] | None,
    ) -> None:
        self.home = folders.folder
        self.paths = folders
        self.read_only = read_only
        self.sessions = sessions
        self.on_step = on_step or (lambda step: None)
        self.catalog = Catalog(sessions)
        found = self.catalog.info()
        self.info = StoreInfo.from_texts(found)
        self.uuid = found.get("uuid", "")
        dimension = self.info.dimension
        fields = {"layout": self.info.layout.fingerprint, "store": self.uuid}
        self.reserve = Reserve(folders.reserve)
        if not read_only:
            self.reserve.fill()
        self.changes = Changes(sessions)
        self.claims = Claims(sessions, folders.writers)
        self.weights = Weights(folders.weights, fields, self.on_step, self._claim)
        self.index = Index(folders.index, dimension)
        self.outbox = Outbox(sessions, dimension)
        self.applier = Applier(
            self.index,
            self.outbox,
            folders.locks,
            dimension=dimension,
            read_only=read_only,
            on_step=self.on_step,
        )
        self.passage_queries = Passages(sessions, dimension)
        self.norms = Norms(sessions)
        self._finder = Finder(self.passage_queries, self.index, self.applier, dimension)

    @classmethod
    def create(cls, folder: Path, info: StoreInfo, *, catalog_url: str | None = None) -> Store:
        """Make a new store in ``folder`` (made if missing) and open it.

        Raises:
            Exists: if there is one, in the folder or behind ``catalog_url``.
            StorageFailed: if the folder can't be written.
        """
        make(folder, info, catalog_url)
        return cls.open(folder, catalog_url=catalog_url)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        read_only: bool = False,
        catalog_url: str | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> Store:
        """Open the store in ``folder``.

        Args:
            folder: as given to ``create``.
            read_only: write nothing; works on a read-only file system.
            catalog_url: SQLAlchemy URL; None means where it was made. The home does not remember a
                password: it comes from here, PGPASSWORD or .pgpass.
            on_step: called with the name of each step of the commit order, see ``STEPS``.

        Raises:
            NotFound: if there is no store.
            Mismatch: code ``format`` if a newer program made it, ``store`` if the catalog belongs
                to another store.
        """
        folders = Folders(folder)
        sessions = open_catalog(folders, catalog_url, read_only=read_only)
        try:
            return cls(folders, sessions, read_only=read_only, on_step=on_step)
        except BaseException:
            sessions.close()
            raise

    def close(self) -> None:
        """Let go of all files and connections."""
        self.weights.close()
        self.index.close()
        try:
            self.claims.release()
        finally:
            self.sessions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # writing

    def write_rows(self, rows: Tensor, *, factors: bool = False) -> list[RowRef]:
        """Write delta rows ``(n, P)`` as one durable weight file.

        Args:
            rows: of dtype ``info.dtype``; of any float dtype if that is int8.
            factors: they are LoRA factors, and their norm is that of the weight change they make.

        Raises:
            Corrupt: code ``non_finite``, or ``bad_size`` for another P or dtype.
            StorageFailed: code ``disk_full``, ``read_only`` or ``io``.
        """
        self.check_writable()
        size = self.info.layout.size
        if rows.dim() != 2 or rows.shape[1] != size:
            raise Corrupt(
                f"delta rows are {tuple(rows.shape)}; expected (n, {size})", code="bad_size"
            )
        with self.sessions.guarded():
            refs = self.weights.write_rows(rows, self.info.dtype)
        if not factors:
            return refs
        norms = self.info.layout.change_norms(rows.detach().cpu()).tolist()
        return [replace(ref, norm=norm) for ref, norm in zip(refs, norms, strict=True)]

    def commit(self, documents: Sequence[NewDocument]) -> list[StoredDocument]:
        """Make documents exist, all in one transaction; on return they are acknowledged.

        A document retires the active version of its name. ``apply_outbox`` should follow.

        Raises:
            Corrupt: code ``lost_file`` if a weight file is not there; nothing is committed.
            StorageFailed: nothing is committed.
        """
        self.check_writable()
        for document in documents:
            check_new(document, self.info)
        entries = [entry for document in documents for entry in document.passages]
        names = Counter(entry.row.file for entry in entries if entry.kind != "cluster")
        shared = {(e.row.file, e.row.offset) for e in entries if e.kind == "cluster"}
        with self.sessions.writing() as session:
            files = {n: self.weights.shape(n) for n in {*names, *(file for file, _ in shared)}}
            stored = self.catalog.commit(session, documents, files, self.info)
            self.claims.settle(session, names, shared)
            self.on_step("before_commit")
        self.on_step("committed")
        return stored

    def apply_outbox(self, namespace: str | None = None, *, timeout_s: float = 30.0) -> int:
        """Bring the index up to date; how many changes were applied.

        Never fails what is committed: an index that can't be written is logged and caught up later.

        Args:
            namespace: None means every namespace with pending changes.
            timeout_s: how long to wait for another process that does the same.
        """
        names = self.outbox.namespaces() if namespace is None else [namespace]
        return sum(self.applier.apply(name, timeout_s) for name in names)

    def delete(
        self,
        namespace: str,
        names: Iterable[str] | None = None,
        *,
        where: Where = None,
        dry_run: bool = False,
    ) -> int:
        """Make documents unreachable, for every process, from this commit on; how many.

        Args:
            namespace: the only one that is touched.
            names: of documents; None means all that meet ``where``.
            where: a condition; with names, both must hold.
            dry_run: only count.

        Raises:
            NotFound: if a name is not there; nothing is deleted then.
            InvalidInput: if neither ``names`` nor ``where`` is given.
        """
        if names is None and where is None:
            raise InvalidInput("nothing says what to delete: give names or a filter")
        if dry_run:
            return self.catalog.count_chosen(namespace, names, as_filter(where))
        self.check_writable()
        if names is not None:
            names = list(names)
        count = self.reserve.despite_full_disk(
            lambda: self.catalog.delete(namespace, names, as_filter(where))
        )
        self.on_step("committed")
        return count

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Keep named tensors (a shared start: theta, alpha) durably under ``name``.

        Returns:
            The sha256 of the file, to serve as its fingerprint.
        """
        with self.sessions.guarded():
            file = self.weights.write_tensors(tensors)
        with self.sessions.writing() as session:
            self.catalog.remember(session, {f"tensors:{name}": file})
            self.claims.settle(session, {file: 1})
        return file

    # rows and tensors

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """What ``write_tensors`` kept under ``name``; NotFound, Corrupt."""
        file = self.catalog.info().get(f"tensors:{name}")
        if file is None:
            raise NotFound(f"the store keeps no tensors called {name!r}")
        return self.weights.read_tensors(file)

    def read_row(self, row: RowRef) -> Tensor:
        """A delta row as a fresh tensor ``(P,)`` in its stored dtype.

        A row that another process has moved to a new file meanwhile is read there.

        Raises:
            Corrupt: code ``lost_file``, ``bad_size``, ``sha_mismatch`` or ``non_finite``.
        """
        return self._read(row, None)

    def read_into(self, row: RowRef, slot: Tensor) -> None:
        """Read a delta row into ``slot (P,)`` of the stored dtype, on any device."""
        if slot.device.type == "cpu":
            self._read(row, slot)
        else:
            slot.copy_(self._read(row, None))

    def will_need(self, rows: Sequence[RowRef]) -> None:
        """Let the system read these rows ahead, while something else is done."""
        self.weights.will_need(rows)

    def rows_of(self, delta_ids: Sequence[str]) -> list[RowRef]:
        """Where the rows of deltas of active documents lie, in the order asked; NotFound."""
        found = self.catalog.row_refs(delta_ids)
        for delta_id in delta_ids:
            if delta_id not in found:
                raise NotFound(f"there is no delta {delta_id!r} of an active document")
        return [found[delta_id] for delta_id in delta_ids]

    def prototypes_of(self, delta_ids: Sequence[str]) -> list[bytes]:
        """The prototypes of deltas of active documents, in the order asked; empty: none is kept."""
        found = self.catalog.prototypes(delta_ids)
        return [found.get(delta_id, b"") for delta_id in delta_ids]

    # searching

    def search_vectors(
        self,
        namespace: str,
        vector: Vector,
        n: int,
        *,
        where: Where = None,
        as_of: int | None = None,
    ) -> list[Scored]:
        """The ``n`` passages nearest to ``vector (D,)`` by cosine, best first.

        Empty for a vector that is zero or not finite.

        Args:
            where: a condition on their documents.
            as_of: what was found as of this change (see ``moment``); None means now.
        """
        check_int("n", n, 1, MAX_HITS)
        return self._finder.by_vector(Scope(namespace, as_filter(where), as_of), vector, n)

    def search_text(
        self, namespace: str, text: str, n: int, *, where: Where = None, as_of: int | None = None
    ) -> list[Scored]:
        """The ``n`` passages that fit the words of ``text`` best by BM25, best first.

        Any text is safe; passages without any of the words are not among the hits.
        """
        check_int("n", n, 1, MAX_HITS)
        return self._finder.by_text(Scope(namespace, as_filter(where), as_of), text, n)

    def similarities(
        self, vector: Vector, passage_ids: Sequence[int], as_of: int | None = None
    ) -> dict[int, float]:
        """Exact cosine of ``vector (D,)`` with the vectors of those passages that are found."""
        return self._finder.similarities(vector, passage_ids, as_of)

    # history

    def moment(self, moment: int | str) -> int:
        """The number of the last change as of a change number, date or time; InvalidInput."""
        return self.changes.resolve(moment)

    def history(self, namespace: str, name: str) -> list[Change]:
        """What happened to a document, latest first; NotFound if nothing is known of it."""
        found = self.changes.of_name(namespace, name)
        if not found:
            raise no_document(namespace, name)
        return found

    def rollback(self, namespace: str, name: str, version: int) -> StoredDocument:
        """Make a stored version the active one again, as a new version; also of a deleted name.

        Its deltas stay where they are. ``apply_outbox`` should follow.

        Raises:
            NotFound: if that version is not stored.
        """
        check_int("version", version, 1, 2**31 - 1)
        self.check_writable()
        stored = self.catalog.rollback(namespace, name, version)
        self.on_step("committed")
        return stored

    # listing

    def is_current(self, namespace: str, name: str, key: str) -> bool:
        """Whether the active version of ``name`` was made under this key."""
        return self.catalog.current_key(namespace, name) == key

    def documents(
        self,
        namespace: str | None = None,
        *,
        where: Where = None,
        limit: int = 100,
        offset: int = 0,
        as_of: int | None = None,
    ) -> list[StoredDocument]:
        """Documents found now, or as of a change, by namespace and name; None: all namespaces."""
        check_int("limit", limit, 0, 10**9)
        check_int("offset", offset, 0, 10**12)
        return self.catalog.documents(namespace, as_filter(where), limit, offset, as_of)

    def document(self, namespace: str, name: str) -> StoredDocument:
        """The active version of ``name``; or, for ``name@3``, version 3 if it is not deleted.

        Raises:
            NotFound: if there is none.
        """
        return self.catalog.document(namespace, name)

    def text(self, document_id: int) -> str:
        """The whole text of a document version; NotFound."""
        return self.catalog.text(document_id)

    def passages(self, document_id: int) -> list[PassageRow]:
        """The passages of a document version, in order."""
        return self.passage_queries.of_document(document_id)

    def deltas(self, document_id: int) -> list[Delta]:
        """The deltas of a document version, in the order of its passages."""
        return self.catalog.deltas(document_id)

    def delta(self, delta_id: str) -> Delta:
        """A delta by its id or a unique beginning of 6 or more characters.

        Raises:
            NotFound: if none begins so.
            InvalidInput: if it is too short, or (code ``ambiguous``) if several begin so.
        """
        return self.catalog.delta(delta_id)

    def namespaces(self) -> list[str]:
        """Namespaces with an active document, sorted."""
        return self.catalog.namespaces()

    def _read(self, row: RowRef, out: Tensor | None) -> Tensor:
        try:
            return self.weights.read_row(row, out)
        except Corrupt as error:
            moved = self.catalog.moved(row) if error.code == "lost_file" else None
            if moved is None:
                raise
        return self.weights.read_row(moved, out)

    def _claim(self, file: str, rows: int) -> None:
        self.claims.claim(file, rows)
        self.on_step("claimed")

    @contextmanager
    def housekeeping(self, timeout_s: float) -> Iterator[None]:
        """Hold the home for work that moves or removes files; one at a time, beside all others."""
        busy = f"another process collects, forgets or backs up in {self.home}"
        with held(self.paths.locks / "housekeeping.lock", busy, timeout_s):
            yield

    def check_writable(self) -> None:
        """Raise StorageFailed, code ``read_only``, ``needs_recovery`` or ``forked``."""
        self.sessions.check_writable()
