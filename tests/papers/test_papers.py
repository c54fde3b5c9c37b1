"""Every paper has a whole card; a reproduction writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import sinet.papers
from sinet.errors import UsageError
from sinet.files import write_json
from sinet.heads import list_necks
from sinet.measurement.cost import cost
from sinet.models import list_networks
from sinet.models.spec import ModelSpec
from sinet.papers import base
from sinet.papers.base import (
    Card,
    Finding,
    Setting,
    judged,
    overall,
    paper,
    papers,
    run_reproduction,
)
from sinet.papers.minspnet import dense_twin

SLUGS = sorted(papers())
FILES = [
    path.stem
    for path in Path(sinet.papers.__path__[0]).glob("*.py")
    if path.stem != "base" and not path.stem.startswith("_")
]


def test_every_file_is_a_paper_under_its_own_name() -> None:
    assert sorted(FILES) == SLUGS
    assert {"sinet", "minspnet"} <= set(SLUGS)


@pytest.mark.parametrize("slug", SLUGS)
def test_cards_are_whole(slug: str) -> None:
    module = paper(slug)
    card = module.CARD
    for field in ("slug", "title", "authors", "venue", "licence", "idea", "parity"):
        assert getattr(card, field).strip(), field
    assert card.slug == slug
    assert card.equations
    assert card.claims
    assert module.SEEDS
    assert callable(module.reproduce)
    for name in card.models:
        assert timm.is_model(name) or name in {*list_networks(), *list_necks()}, name


def test_an_unknown_paper_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'minspnet'"):
        paper("minspet")


def finding(verdict: str) -> Finding:
    return Finding("c", "p", {}, verdict, "w")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["confirmed", "confirmed"], "confirmed"),
        (["confirmed", "not decided"], "not decided"),
        (["confirmed", "refuted", "not decided"], "refuted"),
        ([], "not decided"),
    ],
)
def test_the_whole_is_as_good_as_its_worst_claim(verdicts: list[str], expected: str) -> None:
    assert overall([finding(v) for v in verdicts]) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.2, 1.8, "confirmed"), (-0.5, 1.5, "not decided"), (-2, -0.1, "refuted")],
)
def test_a_gain_is_only_decided_outside_its_interval(
    low: float, high: float, expected: str
) -> None:
    assert judged(low, high) == expected


def test_a_reproduction_is_written_with_its_circumstances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        CARD = Card("fake", "A paper", "A", 2020, "V", "", "MIT", "i", ("y = x",), ("c",), (), "p")
        SEEDS = (0, 1, 2)

        @staticmethod
        def reproduce(setting: Setting) -> list[Finding]:
            assert setting == Setting(True, tmp_path / "work" / "fake" / "quick")
            return [Finding("faster", "2 x", {"ratio": 2.1}, "confirmed", "2.1 x")]

    monkeypatch.setattr(base, "papers", lambda: {"fake": Fake})
    done, path = run_reproduction("fake", quick=True, out=tmp_path, work=tmp_path / "work")
    assert done.verdict == "confirmed"
    written = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "fake.json"
    expected = {"verdict", "findings", "seeds", "hardware", "threads", "versions", "minutes"}
    assert expected <= set(written)
    assert written["seeds"] == [0], "quick uses one seed"
    assert written["findings"][0]["measured"] == {"ratio": 2.1}
    assert written["minutes"] < 1
    write_json(tmp_path / "work" / "fake" / "quick" / "minutes.json", 5.0)
    again, _ = run_reproduction("fake", quick=True, out=tmp_path, work=tmp_path / "work")
    assert again.minutes == pytest.approx(5.0, abs=0.5), "what it goes on from has cost time too"
    _, kept = run_reproduction("fake", quick=True, work=tmp_path / "work")
    assert kept.is_relative_to(tmp_path / "work"), "a quick run is nothing to publish"


@pytest.mark.parametrize("device", ["gpu", "cuda:1", "mps"])
def test_a_device_without_an_experiment_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(UsageError, match="device"):
        run_reproduction("snn", quick=True, device=device, work=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_gpu_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not available"):
        run_reproduction("snn", quick=True, device="cuda", work=tmp_path)


def test_the_dense_twin_differs_only_in_its_depthwise_convolutions() -> None:
    network = ModelSpec("minspnet_test", 32).create(5)
    before = cost(network, 32)
    twin = dense_twin(ModelSpec("minspnet_test", 32).create(5))
    assert not [m for m in twin.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    after = cost(twin, 32)
    assert after.activations == before.activations
    assert after.macs > 1.5 * before.macs
