"""SQuAD's exact match and F1."""

from __future__ import annotations

import pytest

from adapterdb.evaluation.metrics import camels_em, normalize, squad_em, squad_f1


def test_normalize_drops_case_punctuation_articles_and_space() -> None:
    """What SQuAD's script ignores is gone; articles inside words stay."""
    assert normalize(" The  Cat's, an a-b\tanthem. ") == "cats ab anthem"


@pytest.mark.parametrize(
    ("answer", "accepted", "em", "f1"),
    [
        ("the Moot", ["Moot"], 1.0, 1.0),
        ("2,140", ["2140 square kilometres", "2140"], 1.0, 1.0),
        ("in 1762", ["1762"], 0.0, 2 / 3),
        ("red red blue", ["red blue blue"], 0.0, 2 / 3),
        ("green", ["red"], 0.0, 0.0),
        ("", ["red"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("red", [], 0.0, 0.0),
        ("the", [""], 1.0, 1.0),
    ],
)
def test_best_of_accepted_answers(answer: str, accepted: list[str], em: float, f1: float) -> None:
    """Both metrics take the best accepted answer, counting each word as often as it occurs."""
    assert squad_em(answer, accepted) == em
    assert squad_f1(answer, accepted) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "accepted", "em"),
    [
        ("Oste, in the north", ["Oste"], 1.0),
        ("the Oste", ["Oste"], 1.0),
        ("in Oste", ["Oste"], 0.0),
        ("Os", ["Oste"], 0.0),
        ("1762 to 1770", ["1804", "1762"], 1.0),
        ("", ["red"], 0.0),
        ("", [], 1.0),
        ("red", [], 0.0),
    ],
)
def test_prefix_match_of_camels(answer: str, accepted: list[str], em: float) -> None:
    """CaMeLS' exact match cuts the answer to the accepted one's length; squad_em does not."""
    assert camels_em(answer, accepted) == em
    assert squad_em(answer, accepted) <= em
