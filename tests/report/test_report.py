"""The report of complete, partial and failed runs: one page, nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sinet.errors import SinetError
from sinet.report import draw_summary, render
from sinet.report.predictions import save_predictions
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
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return render(finished).read_text(encoding="utf-8")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run to do damage to."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_finished_run_has_every_section(page: str, heading: str) -> None:
    assert f"<h2>{heading}</h2>" in page


def test_the_headline_states_the_shipped_file_and_its_interval(page: str) -> None:
    head = page[page.index("<header>") : page.index("</header>")]
    assert "efficientnet_lite0@96" in head
    assert "91.4%" in head
    assert "95% interval 90.1% to 92.5%" in head
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
def test_a_run_without_one_file_says_what_is_missing(run: Path, name: str) -> None:
    (run / name).unlink()
    page = render(run).read_text(encoding="utf-8")
    assert f"{FILES[name]} <code>{name}</code>" in page


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(run: Path, name: str) -> None:
    content = (run / name).read_bytes()
    (run / name).write_bytes(b"{" + content[: len(content) // 3] + b"\x00[")
    missing = dict(read_run(run).missing)
    if name != "metrics.csv":  # half a table is still a table
        assert "cannot be read" in missing[name]


def test_a_run_of_damaged_files_still_gets_a_page(run: Path) -> None:
    for name in FILES:
        (run / name).write_bytes(b"[{")
    page = render(run).read_text(encoding="utf-8")
    assert page.count("cannot be read") == len(FILES) - 1
    assert "<h2>Repeat it</h2>" in page


def test_a_run_that_found_nothing_within_its_budget_names_the_nearest_miss(tmp_path: Path) -> None:
    page = render(make_failed_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert (
        "No candidate keeps the budget. The nearest miss is sinet_tiny@32 int8: 0.42 ms &gt; 0.1."
        in page
    )
    assert "<h2>Every candidate</h2>" in page
    assert "Nothing was trained." in page


def test_a_run_stopped_in_training_still_shows_its_frontier(run: Path) -> None:
    for name in ("chain.json", "predictions.npz", "layers.json", "card.json"):
        (run / name).unlink()
    page = render(run).read_text(encoding="utf-8")
    assert "ended before an exported file passed" in page
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


def test_several_labels_an_image(run: Path) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 10)) < 0.3).astype(np.float32)
    probability = np.clip(0.8 * labels + 0.3 * rng.random((30, 10)), 0, 1)
    names = [f"{i}.png" for i in range(30)]
    save_predictions(run, names, labels, probability, lambda _: np.zeros((8, 8, 3), np.uint8))
    dataset = json.loads((run / "dataset.json").read_text()) | {"multilabel": True}
    (run / "dataset.json").write_text(json.dumps(dataset))
    page = render(run).read_text(encoding="utf-8")
    assert "mean average precision" in page
    assert "By class, weakest first" in page
    assert "Most frequent confusions" not in page


def test_what_could_not_be_measured_is_a_dash(run: Path) -> None:
    rows = json.loads((run / "candidates.json").read_text())
    rows[-1] |= {"latency": None, "fits": False, "why": "cannot be exported"}
    (run / "candidates.json").write_text(json.dumps(rows))
    assert "cannot be exported" in render(run).read_text(encoding="utf-8")


def test_a_broken_budget_is_said(run: Path) -> None:
    chain = json.loads((run / "chain.json").read_text())
    chain["rows"][-1]["latency"]["median_ms"] = 3.4
    (run / "chain.json").write_text(json.dumps(chain))
    assert "It does not keep the budget." in render(run).read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinetError, match="holds no run"):
        render(tmp_path)


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    assert render(run).read_bytes() == render(run).read_bytes()


def test_the_summary_is_a_picture(run: Path, tmp_path: Path) -> None:
    png = draw_summary(run, tmp_path / "summary.png")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_winner_is_the_best_of_the_last_rung(run: Path) -> None:
    winner = read_run(run).winner
    assert winner is not None
    assert (winner.label, winner.rung) == ("efficientnet_lite0@96", 2)


def test_predictions_hold_no_pickles(run: Path) -> None:
    with np.load(run / "predictions.npz", allow_pickle=False) as file:
        assert {k: file[k].dtype.kind for k in file} == {
            "names": "U", "labels": "i", "probability": "f", "pictures": "u", "picture_index": "i",
        }  # fmt: skip
