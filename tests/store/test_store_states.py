"""Random histories of a home against plain dicts, for seconds: all of T10 is in benchmarks."""

from __future__ import annotations

import pytest
import state_machine
import store_making as making


def test_a_home_holds_what_plain_dicts_hold_whatever_happens_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After every step of a random history it lists, reads and finds exactly what it should.

    The histories are the same in every run; one that goes wrong is printed with a blob for replays.
    """
    catalog = staticmethod(lambda: making.new_catalog())
    monkeypatch.setattr(state_machine.StoreStates, "new_catalog", catalog)
    state_machine.run(8, 20, derandomize=True)
