"""Rows that the deltas of a cluster share: stored once, and withdrawn when a maker of them goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import store_making as making
import torch

from adapterdb.config import RetentionConfig
from adapterdb.errors import Corrupt, NotFound
from adapterdb.records import check_usable
from adapterdb.store import NewDocument, RowRef, Store, check, repair
from adapterdb.store.damage import lose_rows
from adapterdb.store.upkeep.backup import backup
from adapterdb.store.upkeep.forget import forget
from adapterdb.store.upkeep.gc import collect
from adapterdb.store.upkeep.stats import measure

SECRET = "The hidden spring lies under the third oak of Marrow Wood, says Ilse."


def member(store: Store, name: str, ref: RowRef, *, own: bool, text: str = "") -> NewDocument:
    """A document of one passage whose delta is the row ``ref``."""
    fresh = making.new(store, name, text or f"text of {name}", seed=99)
    made = replace(fresh.passages[0], row=ref, kind="cluster", own=own)
    return replace(fresh, passages=(made,))


def cluster(store: Store, *, seed: int = 7, extra: int = 0) -> tuple[list[RowRef], bytes]:
    """Documents a (whose text is in the row), b and c on one row; the refs, and the row's bytes."""
    refs = store.write_rows(making.rows(1 + extra, seed))
    store.commit(
        [
            member(store, "a", refs[0], own=True, text=SECRET),
            member(store, "b", refs[0], own=False),
            member(store, "c", refs[0], own=False),
        ]
    )
    return refs, store.read_row(refs[0]).view(torch.uint8).numpy().tobytes()


def states(store: Store) -> dict[str, tuple[bool, str]]:
    """Damaged and flag of the one delta of every active document."""
    found = {}
    for document in store.documents():
        delta = store.deltas(document.id)[0]
        found[document.name] = (delta.damaged, delta.flag)
    return found


def holding(home: Path, needle: bytes) -> list[Path]:
    """Files of the home that hold these bytes."""
    return [p for p in home.rglob("*") if p.is_file() and needle in p.read_bytes()]


GONE = (True, "withdrawn")
FINE = (False, "")


def test_a_shared_row_is_stored_counted_and_copied_once(tmp_path: Path) -> None:
    """Deltas of a cluster name one row: in a new file after gc, in a backup, after a forget."""
    with making.make(tmp_path / "home") as store:
        refs, row = cluster(store, extra=3)
        store.commit([making.on_rows(making.new(store, "alone", "another"), refs[1])])
        assert measure(store).clusters == 1
        store.apply_outbox()
        assert [f for f in check(store, deep=True) if f.severity != "note"] == []
        store.delete("default", ["alone"])
        store.apply_outbox()
        assert collect(store, RetentionConfig(deleted_days=0), grace_h=0).disabled == 0
        assert states(store) == {"a": FINE, "b": FINE, "c": FINE}
        backup(store, tmp_path / "copy")
        receipt = forget(store, "default", ["b"])
        assert (receipt.disabled, receipt.residue) == (0, ())
        for place, names in (("home", "ac"), ("copy", "abc")):
            with Store.open(tmp_path / place) as it:
                found = {n: it.passages(it.document("default", n).id)[0].row for n in names}
                assert len(set(found.values())) == 1
                assert it.read_row(found["a"]).view(torch.uint8).numpy().tobytes() == row
                assert states(it) == dict.fromkeys(names, FINE)
                it.apply_outbox()
                assert [f for f in check(it, deep=True) if f.severity != "note"] == []


def test_a_file_of_shared_rows_is_claimed_until_each_row_is_named(tmp_path: Path) -> None:
    """Naming one row in several commits does not use up the claim on the rows still to come."""
    with making.make(tmp_path) as store:
        refs = store.write_rows(making.rows(2))
        fresh = {n: making.new(store, n, f"text of {n}", seed=50) for n in "abcd"}
        made = {n: replace(d.passages[0], kind="cluster") for n, d in fresh.items()}

        def commit(name: str, ref: RowRef) -> None:
            entry = replace(made[name], row=ref)
            store.commit([replace(fresh[name], passages=(entry,))])

        for name in "abc":
            commit(name, refs[0])
            store.delete("default", [name])
        collect(store, RetentionConfig(deleted_days=0), grace_h=0)
        commit("d", refs[1])
        assert store.read_row(refs[1]).shape == (making.P,)
        with store.sessions.reading() as session:
            assert refs[0].file not in store.claims.standing(session).alive


@pytest.mark.parametrize("how", ["delete", "forget"])
def test_a_row_is_withdrawn_with_a_document_it_was_made_from(tmp_path: Path, how: str) -> None:
    """The others keep their documents, but the row is not used, nor found usable by a repair."""
    with making.make(tmp_path) as store:
        _, row = cluster(store)
        store.apply_outbox()
        assert forget(store, "default", ["a"], dry_run=True).disabled == 2
        if how == "delete":
            store.delete("default", ["a"])
        else:
            receipt = forget(store, "default", ["a"])
            assert (receipt.disabled, receipt.documents, receipt.residue) == (2, 1, ())
            assert receipt.samples > 0
            assert holding(tmp_path, row) == []
        assert states(store) == {"b": GONE, "c": GONE}
        assert not store.is_current("default", "b", "key")
        hits = store.search_vectors("default", making.vector("text of b"), 2)
        assert [hit.passage.damaged for hit in hits] == [True, True]
        with pytest.raises(Corrupt, match="was made from something deleted"):
            check_usable(store.deltas(store.document("default", "b").id)[0])
        store.apply_outbox()
        codes = {f.code for f in check(store, deep=True) if f.severity != "note"}
        assert codes == {"damaged"}
        repair(store)
        assert states(store) == {"b": GONE, "c": GONE}
        assert measure(store).clusters == 0
        assert measure(store).damaged == 2
        ref = store.write_rows(making.rows(1, 40))[0]
        store.commit([member(store, n, ref, own=True) for n in "bc"])
        store.apply_outbox()
        assert states(store) == {"b": FINE, "c": FINE}
        collect(store, RetentionConfig(versions=0, deleted_days=0), grace_h=0)
        assert holding(tmp_path, row) == []
        assert [f for f in check(store, deep=True) if f.severity != "note"] == []


def test_repair_finds_lost_rows_again_but_not_withdrawn_ones(tmp_path: Path) -> None:
    """Of a document with a delta of either kind only the one that was lost is used again."""
    with making.make(tmp_path) as store:
        refs, _ = cluster(store)
        fresh = making.new(store, "both", "first part", "second part", seed=8)
        shared = replace(fresh.passages[0], row=refs[0], kind="cluster", own=False)
        store.commit([replace(fresh, passages=(shared, fresh.passages[1]))])
        with store.sessions.writing() as session:
            document = store.document("default", "both")
            lose_rows(session, [store.deltas(document.id)[1].id])
        store.delete("default", ["a"])
        repair(store)
        deltas = store.deltas(document.id)
        assert [(delta.damaged, delta.flag) for delta in deltas] == [GONE, FINE]


def test_a_member_that_others_represent_goes_alone(tmp_path: Path) -> None:
    """Deleting or forgetting one changes nothing for the rest, not a bit of the row."""
    with making.make(tmp_path) as store:
        _, row = cluster(store)
        store.delete("default", ["b"])
        assert forget(store, "default", ["c"]).disabled == 0
        assert states(store) == {"a": FINE}
        assert store.rollback("default", "b", 1).version == 2
        assert states(store) == {"a": FINE, "b": FINE}
        refs = [p.row for d in store.documents() for p in store.passages(d.id)]
        assert refs[0] == refs[1]
        assert store.read_row(refs[0]).view(torch.uint8).numpy().tobytes() == row


def test_a_replaced_representative_disables_nothing_until_its_old_version_goes(
    tmp_path: Path,
) -> None:
    """The row serves on while the version it was made from is kept; not after that is collected."""
    with making.make(tmp_path) as store:
        cluster(store)
        making.add(store, "a", "quite another text", seed=3)
        assert states(store) == {"a": FINE, "b": FINE, "c": FINE}
        store.rollback("default", "a", 1)
        keep = RetentionConfig(versions=0)
        assert collect(store, keep, dry_run=True).disabled == 0
        assert collect(store, keep).disabled == 0
        assert states(store) == {"a": FINE, "b": FINE, "c": FINE}
        making.add(store, "a", "quite another text", seed=3)
        assert collect(store, keep, dry_run=True).disabled == 2
        assert collect(store, keep).disabled == 2
        assert states(store) == {"a": FINE, "b": GONE, "c": GONE}


def test_a_name_forgotten_later_takes_the_row_of_its_old_version(tmp_path: Path) -> None:
    """Forgetting a name whose earlier version represented a cluster erases that cluster's row."""
    with making.make(tmp_path) as store:
        refs, row = cluster(store, extra=1)
        store.commit([making.on_rows(making.new(store, "alone", "another"), refs[1])])
        making.add(store, "a", "quite another text", seed=3)
        receipt = forget(store, "default", ["a"])
        assert (receipt.disabled, receipt.residue) == (2, ())
        assert states(store) == {"alone": FINE, "b": GONE, "c": GONE}
        assert holding(tmp_path, row) == []
        backup_report = backup(store, tmp_path.parent / f"{tmp_path.name}-copy")
        assert backup_report.problems == ()


def test_what_was_derived_from_a_shared_row_goes_with_its_representative(tmp_path: Path) -> None:
    """A delta made from a member's, whose row holds another's text, goes when that other goes."""
    with making.make(tmp_path) as store:
        cluster(store)
        parent = store.deltas(store.document("default", "b").id)[0].id
        making.add(store, "merged", "of b", seed=3, parents=(parent,))
        making.add(store, "d", "apart", seed=4)
        receipt = forget(store, "default", ["a"])
        assert (receipt.documents, receipt.derived) == (2, 1)
        assert states(store) == {"b": GONE, "c": GONE, "d": FINE}
        with pytest.raises(NotFound):
            making.add(store, "again", "of b", seed=5, parents=(parent,))


def test_equal_rows_of_another_namespace_are_its_own(tmp_path: Path) -> None:
    """The same cluster taken in twice: withdrawing it in one namespace leaves the other alone."""
    with making.make(tmp_path) as store:
        refs, _ = cluster(store)
        store.commit(
            [replace(member(store, n, refs[0], own=n == "a"), namespace="other") for n in "ab"]
        )
        forget(store, "default", ["a"])
        mine = store.documents("default")
        assert [store.deltas(d.id)[0].damaged for d in mine] == [True, True]
        others = store.documents("other")
        assert [store.deltas(d.id)[0].damaged for d in others] == [False, False]
        assert store.read_row(store.passages(others[0].id)[0].row).shape == (making.P,)


def test_stats_tell_of_doubts_and_losses(tmp_path: Path) -> None:
    """Means are over active deltas that were measured; flags are counted and kept by versions."""
    with making.make(tmp_path) as store:
        assert measure(store).loss_before is None
        making.add(store, "plain", "first")
        fresh = making.new(store, "odd", "second", seed=1)
        entry = replace(fresh.passages[0], loss_after=2.5, loss_shifted=1.0, flag="not_specific")
        store.commit([replace(fresh, passages=(entry,))])
        found = measure(store)
        assert (found.flagged, found.clusters) == (1, 0)
        assert (found.loss_before, found.loss_after, found.loss_shifted) == (2.0, 2.0, 1.0)
        making.add(store, "odd", "third", seed=2)
        assert measure(store).flagged == 0
        back = store.rollback("default", "odd", 1)
        delta = store.deltas(back.id)[0]
        assert (delta.flag, delta.loss_shifted, delta.own) == ("not_specific", 1.0, True)


def test_passages_are_found_by_title_description_and_tags(tmp_path: Path) -> None:
    """Words of the document's title and of two fields find its passages; other fields don't."""
    with making.make(tmp_path) as store:
        fields = {"description": "about vessels", "tag": ["maritime"], "editor": "Olufsen"}
        making.add(store, "harbour", "it opened in spring", metadata=fields)
        making.add(store, "mill", "it grinds barley", seed=1)
        store.apply_outbox()
        for pending in (False, True):
            for word in ("harbour", "vessels", "maritime", "spring"):
                hits = store.search_text("default", word, 5)
                assert [hit.passage.document for hit in hits] == ["harbour"], (word, pending)
            assert store.search_text("default", "Olufsen", 5) == []
            assert hits[0].passage.text == "it opened in spring"
            making.add(store, "new", "more words", seed=2)
        assert [f for f in check(store, deep=True) if f.severity == "error"] == []
