"""The measuring verbs as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from onnx_files import classifier
from typer.testing import CliRunner, Result

from sinet.cli import guarded
from sinet.cli.bench import bench
from sinet.cli.models import models
from sinet.cli.papers import papers
from sinet.cli.profile import profile
from sinet.cli.reproduce import reproduce
from sinet.measurement.profile import DeviceProfile
from sinet.models.spec import ModelSpec
from sinet.search import device


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    app = typer.Typer()
    for verb in (bench, models, profile, reproduce):
        app.command()(guarded(verb))
    app.add_typer(papers, name="papers")
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: str) -> Result:
        return CliRunner().invoke(app, words)

    return call


def test_bench_states_its_conditions(run) -> None:
    done = run("bench", "sinet_test", "minspnet_test", "--size", "32", "--threads", "1",
               "--seconds", "0.1")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "fp32, 1 threads, batch 1" in done.output
    assert "no spinning" in done.output
    assert "sinet_test@32" in done.output
    assert "GFLOP/s" in done.output


def test_bench_as_json(run, tmp_path: Path) -> None:
    import numpy as np

    file = classifier(tmp_path / "c.onnx", np.eye(3))
    done = run("bench", str(file), "--seconds", "0.1", "--json")
    (row,) = json.loads(done.output)
    assert row["latency"]["median_ms"] > 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["bench", "sinet_tset"], 2, "did you mean 'sinet_test'"),
        (["bench", "none.onnx"], 2, "no such ONNX file"),
        (["models", "nothing*"], 2, "unknown model 'nothing*'"),
        (["papers", "show", "minspet"], 2, "did you mean 'minspnet'"),
        (["reproduce", "minspet"], 2, "did you mean 'minspnet'"),
    ],
)
def test_mistakes_have_their_exit_code(run, words: list[str], code: int, message: str) -> None:
    done = run(*words)
    assert done.exit_code == code
    assert message in " ".join(done.output.split())


def test_models_lists_ours_and_timms_alike(run) -> None:
    ours, theirs = run("models", "minspnet_minimal"), run("models", "lcnet_050", "--size", "64")
    assert "sinet" in ours.output
    assert "224" in ours.output
    assert "timm" in theirs.output
    assert "64" in theirs.output


def test_models_lists_networks_and_necks(run) -> None:
    heads, necks = run("models", "*rcnn*"), run("models", "dense_fpn")
    assert "mask_rcnn_pp" in heads.output
    assert "instances" in heads.output
    assert "neck" in necks.output
    assert "CATNet" in necks.output
    timed = run("models", "retinanet", "--bench")
    assert timed.exit_code == 2
    assert "unknown model 'retinanet'" in timed.output


def test_models_can_be_timed(run) -> None:
    done = run("models", "lcnet_035", "--size", "32", "--bench", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert "quartiles" in done.output


def test_papers_are_listed_and_shown(run) -> None:
    assert "minspnet_minimal" in run("papers").output
    shown = run("papers", "show", "minspnet").output
    assert "Beginner's Guide" in shown
    assert "sinet reproduce minspnet --quick" in shown


def test_profile_writes_what_fit_reads(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "default_specs", lambda size: [ModelSpec("sinet_test", size)])
    done = run("profile", "--out", str(tmp_path / "p.json"), "--image-size", "32", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert len(DeviceProfile.load(tmp_path / "p.json").rows) == 2
