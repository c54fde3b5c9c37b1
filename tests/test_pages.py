"""The generated pages of the documentation, and what is measured for them."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("make_models")


def test_a_small_network_is_counted_exactly_and_with_its_own_classes(pages: Any) -> None:
    assert "| 14,862 |" in pages.variant_row("lightcnn", {})
    assert "| 0.54 M |" in pages.variant_row("snn_mlp", {})


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
