"""Candidates are timed once, judged by the budget, kept on disk, or read from a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sinet.errors import UsageError
from sinet.measurement.latency import Latency
from sinet.measurement.profile import DeviceProfile
from sinet.models.spec import ModelSpec
from sinet.search import candidates as module
from sinet.search.budget import Budget
from sinet.search.candidates import Candidate, near_misses, time_candidates
from sinet.search.device import profile_device
from sinet.search.specs import default_specs

TINY = ModelSpec("sinet_test", 32, {"stem_stride": 1})
OTHER = ModelSpec("minspnet_test", 32)


def row(spec: ModelSpec, ms: float, mb: float = 1.0) -> Candidate:
    latency = Latency(ms, ms * 0.9, ms * 1.1, 20, 1)
    return Candidate(spec, "fp32", latency, 1, 10**6, mb, None, fits=False, why="")


def test_real_networks_are_exported_timed_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    conditions = {"image_hw": (40, 48), "threads": 1, "num_classes": 3}
    found = time_candidates(
        [TINY, OTHER],
        Budget.parse("10s,50MB"),
        progress=lambda done, total, rows: asked.append((done, total)),
        **conditions,
    )
    assert asked == [(1, 2), (2, 2)]
    assert [(c.spec, c.precision) for c in found] == [
        (TINY, "fp32"), (TINY, "int8"), (OTHER, "fp32"), (OTHER, "int8")
    ]  # fmt: skip
    for c in found:
        assert c.fits, c.why
        assert c.latency is not None
        assert c.latency.threads == 1
        assert c.params > 1000
        assert c.macs > 1000
        assert Candidate.from_dict(c.to_dict()) == c
    assert found[1].file_mb < found[0].file_mb, "INT8 weights are smaller"

    def must_not(*_: object) -> None:
        raise AssertionError("timed again")

    monkeypatch.setattr(module._Bench, "time", must_not)
    again = time_candidates([TINY, OTHER], Budget(ms=1e-6), **conditions)
    assert [c.latency for c in again] == [c.latency for c in found]
    assert not any(c.fits for c in again), "the same times, another budget"
    with pytest.raises(AssertionError, match="timed again"):
        time_candidates([TINY], Budget(), image_hw=(64, 48), threads=1, num_classes=3)


def test_weights_do_not_change_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Bench, "time", lambda self, spec, n, f: [row(spec, 2)] * 2)
    time_candidates([TINY], Budget(), image_hw=(32, 32))
    pretrained = ModelSpec(TINY.name, TINY.size, TINY.kwargs, weights="some.safetensors")
    monkeypatch.delattr(module._Bench, "time")
    found = time_candidates([pretrained], Budget(), image_hw=(32, 32))
    assert found[0].spec == pretrained


def test_time_is_budgeted_and_what_is_hopeless_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []

    def fake(self: object, spec: ModelSpec, network: object, facts: object) -> list[Candidate]:
        now[0] += 10
        order.append(spec.size)
        return [row(spec, spec.size)] * 2

    monkeypatch.setattr(module._Bench, "time", fake)
    monkeypatch.setattr(module._Bench, "ideal_ms", lambda self, macs: 99.0 if macs > 5e6 else 0.1)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    specs = [ModelSpec("sinet_test", s) for s in (224, 64, 32, 96)]
    found = time_candidates(specs, Budget(ms=50), image_hw=(64, 64), seconds=25, cache=False)
    assert order == [64, 32, 96]
    assert [c.spec.size for c in found[::2]] == [64, 32, 96]


def test_what_cannot_be_exported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise module.SinetError("no such operator")

    monkeypatch.setattr(module, "export_network", broken)
    (found,) = time_candidates([TINY], Budget(ms=10), image_hw=(32, 32), cache=False)
    assert not found.fits
    assert found.why == "no such operator"
    assert found.excess(Budget(ms=10)) == float("inf")


def test_what_cannot_be_built_or_run_says_why_and_stops_nothing() -> None:
    wrong = ModelSpec("sinet_test", 32, {"stem_strid": 1})
    narrow = ModelSpec("smp_pan", 64, {"backbone": "test_resnet"})
    found = time_candidates([wrong, narrow, TINY], Budget(), image_hw=(32, 32), cache=False)
    reasons = {c.spec: c.why for c in found if c.latency is None}
    assert "stem_strid" in reasons[wrong]
    assert "test_resnet+smp_pan@64 cannot be run" in reasons[narrow]
    assert [c.precision for c in found if c.fits] == ["fp32", "int8"]


def test_the_upper_quartile_must_keep_the_budget() -> None:
    assert row(TINY, 10).held_against(Budget(ms=11.1)).fits
    judged = row(TINY, 10).held_against(Budget(ms=10.5))
    assert not judged.fits
    assert judged.why == "11 ms > 10.5"


def test_near_misses_are_nearest_first() -> None:
    budget = Budget(ms=10, mb=4)
    rows = [row(TINY, 30), row(TINY, 12), row(TINY, 5), row(TINY, 5, mb=6)]
    misses = near_misses([c.held_against(budget) for c in rows], budget)
    assert [c.excess(budget) for c in misses] == pytest.approx([1.32, 1.5, 3.3])


def test_a_second_look_is_paid_for() -> None:
    options: Any = {"image_hw": (64, 64), "threads": 1, "cache": False}
    once, twice = (
        time_candidates([OTHER], Budget(), mirrored=mirrored, **options)[0]
        for mirrored in (False, True)
    )
    assert twice.macs == 2 * once.macs
    assert twice.params == once.params
    assert once.latency is not None
    assert twice.latency is not None
    assert twice.latency.median_ms > 1.2 * once.latency.median_ms
    assert twice.file_mb < 1.3 * once.file_mb  # the same weights


def test_a_profile_answers_for_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sinet.search import device

    monkeypatch.setattr(device, "default_specs", lambda size: [TINY, OTHER])
    made = profile_device((32,), minutes=1, threads=1)
    read = DeviceProfile.load(made.save(tmp_path / "device.json"))
    asked = [OTHER, ModelSpec("sinet_test", 64)]
    found = time_candidates(asked, Budget(ms=1e5), image_hw=(32, 32), profile=read)
    assert [(c.spec.name, c.precision) for c in found] == [
        ("minspnet_test", "fp32"), ("minspnet_test", "int8")
    ]  # fmt: skip
    assert all(c.fits for c in found)
    with pytest.raises(UsageError, match="leave out tta=true or --profile"):
        time_candidates(asked, Budget(), image_hw=(32, 32), profile=read, mirrored=True)


@pytest.mark.parametrize("image_size", [28, 32, 64, 100, 224, 1000])
def test_at_least_25_networks_for_any_image_size(image_size: int) -> None:
    specs = default_specs(image_size)
    assert len({s.name for s in specs}) >= 25
    assert len(set(map(str, specs))) == len(specs)
    assert any(s.name.startswith("sinet") for s in specs[:15])
    assert all(s.size <= 224 for s in specs)


def test_small_images_are_taken_as_they_are_by_ours_and_enlarged_for_others() -> None:
    specs = default_specs(32)
    assert {s.size for s in specs if s.name.startswith("sinet")} == {32}
    assert all(s.kwargs["stem_stride"] == 1 for s in specs if s.name.startswith("sinet"))
    assert min(s.size for s in specs if s.name.startswith("resnet")) == 64


def test_pretrained_networks_come_first(tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").touch()
    specs = default_specs(224, folder=tmp_path)
    pretrained = [s.weights is not None for s in specs[:25]]
    resnet = next(s for s in specs if s.name == "resnet18")
    assert resnet.weights == str(tmp_path / "resnet18.safetensors")
    assert pretrained[: specs.index(resnet) + 1] == [True] * (specs.index(resnet) + 1)
