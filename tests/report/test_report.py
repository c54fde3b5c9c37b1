"""The report of complete, partial and failed runs: one page, nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from sinet.errors import SinetError
from sinet.report import draw_summary, render
from sinet.report.reader import FILES, read_run

from .fake_run import CLASSES, make_failed_run, make_run

HEADINGS = [
    "What accuracy costs in time",
    "From training to the shipped file",
    "Learning curves",
    "Where it is wrong",
    "Worst mistakes",
    "Where the time goes",
    "Before it goes onto the device",
    "Every candidate",
    "The images",
    "Repeat it",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("runs") / "demo")
    return render(run).read_text(encoding="utf-8")


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_finished_run_has_every_section(page: str, heading: str) -> None:
    assert f"<h2>{heading}</h2>" in page


def test_the_headline_states_the_shipped_file_and_its_interval(page: str) -> None:
    head = page[page.index("<header>") : page.index("</header>")]
    assert "efficientnet_lite0@96" in head
    assert "91.4%" in head
    assert "95% interval 90.1% to 92.6%" in head
    assert "It keeps the budget." in head
    assert "Missing" not in head


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    sources = re.findall(r"""(?:src|href|url\()\s*=?\s*["']?([^"'\s>)]+)""", page)
    assert sources, "the pictures at least"
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert "<script" not in page
    assert "@import" not in page


def test_every_id_is_defined_once(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", FILES)
def test_a_run_without_one_file_says_what_is_missing(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).unlink()
    page = render(run).read_text(encoding="utf-8")
    assert f"{FILES[name]} <code>{name}</code>" in page


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run")
    content = (run / name).read_bytes()
    (run / name).write_bytes(b"{" + content[: len(content) // 3] + b"\x00[")
    page = html.unescape(render(run).read_text(encoding="utf-8"))
    if name != "metrics.csv":  # half a table is still a table
        assert f"{FILES[name]} (cannot be read" in page
    assert "Repeat it" in page


def test_a_run_that_found_nothing_within_its_budget_names_the_nearest_miss(tmp_path: Path) -> None:
    page = render(make_failed_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "No candidate keeps the budget. The fastest is sinet_tiny@32 int8 with 0.42 ms." in page
    assert "<h2>Every candidate</h2>" in page
    assert "Nothing was trained." in page


def test_a_run_stopped_in_training_still_shows_its_frontier(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("chain.json", "predictions.npz", "layers.json", "card.json"):
        (run / name).unlink()
    page = render(run).read_text(encoding="utf-8")
    assert "ended before its model was exported" in page
    assert "<h2>What accuracy costs in time</h2>" in page


def test_class_names_are_text_not_markup(tmp_path: Path) -> None:
    classes = ["<script>alert(1)</script>", "Größe & 猫", "$x_1^2$", *CLASSES[3:]]
    page = render(make_run(tmp_path / "run", classes)).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Größe &amp; 猫" in page
    assert "$x_1^2$" in page


def test_many_classes_give_pairs_instead_of_a_matrix(tmp_path: Path) -> None:
    page = render(make_run(tmp_path / "run", [f"kind {i}" for i in range(40)])).read_text()
    assert "Most frequent confusions" in page
    assert "Counts on the evaluated images" not in page


def test_a_broken_budget_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    chain = json.loads((run / "chain.json").read_text())
    chain["rows"][-1]["latency"]["median_ms"] = 3.4
    (run / "chain.json").write_text(json.dumps(chain))
    assert "It does not keep the budget." in render(run).read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinetError, match="holds no run"):
        render(tmp_path)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert render(run).read_bytes() == render(run).read_bytes()


def test_the_summary_is_a_picture(tmp_path: Path) -> None:
    png = draw_summary(make_run(tmp_path / "run"), tmp_path / "summary.png")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_winner_is_the_best_of_the_last_rung(tmp_path: Path) -> None:
    winner = read_run(make_run(tmp_path / "run")).winner
    assert winner is not None
    assert (winner.label, winner.rung) == ("efficientnet_lite0@96", 2)


def test_predictions_hold_no_pickles(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with np.load(run / "predictions.npz", allow_pickle=False) as file:
        assert {k: file[k].dtype.kind for k in file} == {
            "names": "U", "labels": "i", "probability": "f", "pictures": "u", "picture_index": "i",
        }  # fmt: skip
