"""The generated pages of the documentation, and what is measured for them."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sinet.papers.base import Published, papers

ROOT = Path(__file__).parents[1]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("make_models")


def test_a_small_network_is_counted_exactly_and_with_its_own_classes(pages: Any) -> None:
    _, _, small, larger = pages.variant_table(["lightcnn", "snn_mlp"], {}, {})
    assert "| 14,862 |" in small
    assert "| 0.54 M |" in larger


def test_what_a_paper_prints_stands_beside_ours(pages: Any) -> None:
    published = {"lightcnn": Published(0.014862, 0.167, 99, size=64), "snn_mlp": Published(28, 4.5)}
    header, _, *rows = pages.variant_table(["lightcnn", "snn_mlp"], {}, published)
    assert header.split(" | ")[3::2][:2] == ["paper: parameters", "paper: MMACs"]
    assert rows[0].split(" | ")[2:7] == ["14,862", "14,862", "0.46", "167 (64 px)", "99 (64 px)"]
    assert rows[1].split(" | ")[2:7] == ["0.54 M", "28 M", "0.54", "4,500", ""]
    header = pages.variant_table(["snn_mlp"], {}, {"snn_mlp": Published(None, None, 97.0)})[0]
    assert "MMACs | paper: top-1 |" in header
    assert "paper" not in pages.variant_table(["snn_mlp"], {}, {})[0]


def test_prose_gives_way_to_the_papers_columns(pages: Any) -> None:
    cards = {slug: found.CARD for slug, found in papers().items()}
    assert "Reported" not in "".join(pages.reported(cards["unireplknet"], ["unireplknet_a"]))
    assert cards["unireplknet"].caveat in pages.reported(cards["unireplknet"], ["unireplknet_a"])[0]
    assert "Reported with Faster" in pages.reported(cards["fdconv"], ["fdconv_resnet18"])[0]
    assert pages.reported(cards["minspnet"], ["minspnet_small"]) == [pages.UNREPORTED, ""]
    assert "timm's own" in "".join(pages.reported(cards["ghostnetv2"], ["ghostnetv2_100"]))


@pytest.mark.parametrize(
    ("name", "sides"),
    [("lsnet_t", [28, 14, 7, 4]), ("inception_v4", [147, 73, 35, 17, 8]), ("snn_mlp", [])],
)
def test_a_diagram_has_the_sizes_of_a_forward(pages: Any, name: str, sides: list[int]) -> None:
    found = re.findall(r">(\d+) px<", pages.diagram(name)[0])
    assert [int(side) for side in found] == sides


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("fmvit_tiny", [2, 2, 4, 2]),  # stages of mixed kinds of blocks
        ("nasnet_mobile", [1, 1, 5, 5, 5]),  # a flat row of cells
        ("inception_v4", [3, 1, 4, 7, 3]),  # between them what only makes maps smaller
        ("ghostnetv2_100", [2, 2, 2, 6, 5]),  # each level is the first of its size
        ("lsnet_t", [2, 8, 10]),  # its first level is only the stem
    ],
)
def test_a_diagram_counts_blocks(pages: Any, name: str, blocks: list[int]) -> None:
    found = re.findall(r">(\d+) x \d+<", pages.diagram(name)[0])
    assert [int(count) for count in found] == blocks


def test_networks_without_maps_show_their_layers(pages: Any, monkeypatch: Any) -> None:
    widths = re.findall(r">(\d+)</text>", pages.diagram("snn_mlp")[0])
    assert widths == ["512", "256", "10"]
    monkeypatch.setattr(pages, "MOST_LAYERS", 2)
    assert ">3 layers<" in pages.diagram("snn_mlp")[0]


def test_a_quick_result_counts_as_none(pages: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    assert pages.verdict_lines("x") == ["Not measured yet."]
    found = {"verdict": "confirmed", "hardware": "h", "minutes": 9.5, "findings": []}
    path = tmp_path / "reproductions" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**found, "quick": True}), encoding="utf-8")
    assert pages.verdict_lines("x") == ["Not measured yet."]
    path.write_text(json.dumps({**found, "quick": False}), encoding="utf-8")
    assert pages.verdict_lines("x")[0] == "**confirmed** (h, 9.5 minutes)"


def test_the_zoo_holds_what_the_cards_name_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = importlib.import_module("zoo").names("")
    timms = {"ghostnetv2_100", "inception_v4", "halonet_h1", "convnext_tiny"}
    assert timms | {"lsnet_t", "inception_resnet_v1"} <= set(names)
    assert not any(name.endswith("_test") for name in names)
