"""``docs/results.py`` writes the numbers that a run's results hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from results_making import every_table, results

SCRIPT = Path(__file__).parents[2] / "docs" / "results.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_results", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_cell_figure_curve_and_note_is_on_the_page(
    script: ModuleType, tmp_path: Path
) -> None:
    made = results(*every_table(30), n=30)
    made.write(tmp_path)
    page = script.page([tmp_path], "# Results\n\nWritten by people.\n")
    assert page.startswith("# Results\n\nWritten by people.\n\n## made-up: ")
    assert made.setup["command"] in page
    lines = page.splitlines()
    for table, summary in zip(made.tables, made.summaries, strict=True):
        for row in summary.rows:
            starts = (f"| {row.cell} |", f"| *{row.cell}* |")
            mine = [line for line in lines if line.startswith(starts)]
            numbers = [
                f"| {script.Metric.of(table, name).text(found.mean)}"
                for name, found in row.scores.items()
            ]
            assert any(all(number in line for number in numbers) for line in mine)
        assert all(f"| {f.name} |" in page for f in table.figures[: script.FIGURES])
        assert all(f"| {curve.x} | " in page for curve in table.curves)
        assert all(f"- {note}" in page for note in table.notes)


def test_what_people_wrote_and_other_runs_stay(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = results(*every_table(6)[:1], n=6)
    made.write(tmp_path)
    heading = script.heading(script.section(made))
    page = tmp_path / "results.md"
    old = f"{heading}\n\nold numbers\n\n## other: static\n\nother numbers\n"
    page.write_text(f"# Results\n\nFive sentences.\n\n{old}")
    monkeypatch.setattr(script, "FILE", page)
    monkeypatch.setattr("sys.argv", ["results.py", str(tmp_path)])
    script.main()
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Results\n\nFive sentences.\n\n" + heading)
    assert "old numbers" not in text
    assert text.endswith("\n\n## other: static\n\nother numbers\n")
    script.main()
    assert page.read_text(encoding="utf-8") == text
