"""A profile written on one machine is read on another, or says why it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sinet.errors import DataError
from sinet.measurement.latency import Latency
from sinet.measurement.machine import Machine, Peak, versions
from sinet.measurement.profile import DeviceProfile, ProfileRow


@pytest.fixture
def profile() -> DeviceProfile:
    device = Machine("Pi", 4, ("asimd",), 8.0, "Linux", "", versions(), (Peak(4, 30, 0, 60, 8),))
    latency = Latency(12.0, 11.5, 12.5, 50, 4)
    row = ProfileRow("sinet_tiny", 32, {"stem_stride": 1}, "int8", latency, 10, 20, 1.5)
    return DeviceProfile(device, (row,), (224, 224), "2026-01-01")


def test_round_trip(profile: DeviceProfile, tmp_path: Path) -> None:
    assert DeviceProfile.load(profile.save(tmp_path / "pi5.json")) == profile


def test_rows_are_found_by_everything_that_decides_speed(profile: DeviceProfile) -> None:
    assert profile.find("sinet_tiny", 32, {"stem_stride": 1}, "int8") is profile.rows[0]
    assert profile.find("sinet_tiny", 32, {}, "int8") is None
    assert profile.find("sinet_tiny", 64, {"stem_stride": 1}, "int8") is None
    assert profile.find("sinet_tiny", 32, {"stem_stride": 1}, "fp32") is None


def test_other_versions_are_said_aloud(profile: DeviceProfile) -> None:
    assert profile.notes() == []
    older = replace(profile.machine, versions={**versions(), "onnxruntime": "1.2.3"})
    (note,) = replace(profile, machine=older).notes()
    assert "onnxruntime 1.2.3" in note
    patched = versions()["onnxruntime"] + ".1"
    same = replace(profile.machine, versions={**versions(), "onnxruntime": patched})
    assert replace(profile, machine=same).notes() == [], "a patch release changes no speed"


def changed(values: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**values, **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: "{", "damaged device profile"),
        (lambda v: "[]", "not a device profile"),
        (lambda v: json.dumps({"rows": []}), "profile format None"),
        (lambda v: changed(v, format=99), "profile format 99"),
        (lambda v: changed(v, rows=[]), "no timed model"),
        (lambda v: changed(v, rows=[{"name": "x"}]), "damaged"),
        (lambda v: changed(v, machine={}), "malformed machine"),
        (lambda v: changed(v, image_hw=[1]), "damaged"),
        (lambda v: changed(v, rows=[{**v["rows"][0], "size": "big"}]), "damaged"),
        (lambda v: changed(v, rows=["x"]), "damaged"),
    ],
)
def test_damaged_profiles(
    profile: DeviceProfile, tmp_path: Path, damage: Any, message: str
) -> None:
    path = profile.save(tmp_path / "pi5.json")
    path.write_text(damage(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        DeviceProfile.load(path)


def test_a_missing_profile(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `sinet profile --out FILE` on the device"):
        DeviceProfile.load(tmp_path / "none.json")
