"""Teachers, given weights and frozen layers on the road."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rich.console import Console
from tests.conftest import draw
from typer.testing import Result

from sinet.data import open_dataset
from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.road.choose import _specs, named_in
from sinet.road.config import FitConfig
from sinet.road.run import Run as RunFolder
from sinet.road.teach import train_teachers
from sinet.tasks.classify import Classify
from sinet.tasks.train_command import FEW_IMAGES, usual_recipe
from sinet.training.trained import Trained

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know a thousand classes."""
    file = tmp_path_factory.mktemp("weights") / "test_efficientnet.pth"
    torch.save(timm.create_model("test_efficientnet").state_dict(), file)
    return file


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("choose", "teach"):
        monkeypatch.setattr(f"sinet.road.{module}.hub_reachable", lambda: False)


def run_in(folder: Path, data: Path, **options: Any) -> RunFolder:
    config = FitConfig(str(data), out=str(folder), device="cpu", **options)
    return RunFolder(config, Console(file=io.StringIO()))


def test_teachers_teach_one_another_and_then_the_network(
    sinet: Run, photos: Path, thousand: Path, tmp_path: Path
) -> None:
    words = ("fit", photos, "--model", "sinet_test", "--minutes", "0.03", "--out", tmp_path / "run",
             "--teacher", "test_efficientnet", "--teacher", "sinet_test", "--weights", thousand,
             "distil_weight=0.4", "batch_size=16")  # fmt: skip
    result = sinet(*words)
    assert result.exit_code == 0, result.output
    first, second = (Trained.load(tmp_path / "run" / f"teacher-{i}") for i in (1, 2))
    assert (first.spec.name, first.init) == ("test_efficientnet", str(thousand))
    assert (first.recipe.teacher, second.recipe.teacher) == ("", str(first.folder))
    pupil = Trained.load(tmp_path / "run")
    assert pupil.recipe.teacher == str(second.folder)
    assert pupil.recipe.distil_weight == 0.4
    assert second.recipe.distil_weight == 0.5
    written = (first.folder / "trained.json").stat().st_mtime_ns
    trials = (tmp_path / "run/trials.json").read_bytes()
    again = sinet(*words)
    assert again.exit_code == 0, again.output
    assert (first.folder / "trained.json").stat().st_mtime_ns == written
    assert (tmp_path / "run/trials.json").read_bytes() == trials
    other = sinet(*words[:-2], "--teacher", "resnet18", "batch_size=16")
    assert other.exit_code == 2
    assert "teachers [" in other.output


def test_a_finished_run_teaches_as_it_is(photos: Path, thousand: Path, tmp_path: Path) -> None:
    named = {"teachers": ("test_efficientnet",), "weights": str(thousand), "minutes": 0.02}
    images = open_dataset(photos)
    run = run_in(tmp_path / "one", photos, **named)
    spent = train_teachers(run, images)
    teacher = Trained.load(tmp_path / "one/teacher-1")
    assert spent == pytest.approx(teacher.seconds / 60)
    plan = json.loads((tmp_path / "one/teacher-1.json").read_text())
    assert teacher.recipe.epochs == plan["epochs"]
    other = run_in(tmp_path / "two", photos, teachers=(str(teacher.folder),))
    assert train_teachers(other, images) == 0
    assert other.config.recipe_for(ModelSpec("sinet_test", 32), "default").teacher == str(
        teacher.folder
    )
    more = open_dataset(draw(tmp_path / "more", 20, ("dark", "purple")))
    with pytest.raises(UsageError, match=r"2 classes \(dark, light\), but these data"):
        train_teachers(other, more)
    with pytest.raises(UsageError, match="did you mean 'test_efficientnet'"):
        train_teachers(run_in(tmp_path / "three", photos, teachers=("test_efficientnett",)), images)


def test_a_task_without_teachers_says_so(sinet: Run, photos: Path, tmp_path: Path) -> None:
    cut = sinet("train", photos, "--teacher", "nobody", "--out", tmp_path / "run", "--epochs", 1,
                "--model", "sinet_test")  # fmt: skip
    assert cut.exit_code == 2
    assert "unknown teacher 'nobody'" in " ".join(cut.output.split())


def test_weights_of_one_network(photos: Path, thousand: Path, tmp_path: Path) -> None:
    images = open_dataset(photos)

    def specs(name: str, **options: Any) -> list[ModelSpec]:
        return _specs(run_in(tmp_path / name, photos, **options), images)

    file = str(thousand)
    for options in ({}, {"models": ("test_efficientnet",)}):
        found = specs(f"{len(options)}", weights=file, **options)
        assert {(s.name, s.weights) for s in found} == {("test_efficientnet", file)}
    hub = "hub:timm/convnext_atto.d2_in1k"
    found = specs("hub", weights=hub, freeze=3)
    assert {(s.name, s.weights) for s in found} == {("convnext_atto", hub)}
    folder = specs(
        "folder", weights=str(thousand.parent), models=("test_efficientnet", "resnet10t")
    )
    assert {s.weights for s in folder} == {file, None}
    with pytest.raises(UsageError, match="those of one network, but sinet_test and 1 more"):
        specs("two", weights=file, models=("sinet_test", "resnet10t"))
    with pytest.raises(UsageError, match="does not tell whose weights they are"):
        named_in("hub:somebody/something")


def test_layers_that_know_nothing_are_not_kept(
    photos: Path, thousand: Path, tmp_path: Path
) -> None:
    images, folder = open_dataset(photos), str(thousand.parent)
    two = ("test_efficientnet", "sinet_test")
    run = run_in(tmp_path / "a", photos, freeze=1, models=two, weights=folder)
    assert {s.name for s in _specs(run, images)} == {"test_efficientnet"}
    assert run.config.recipe_for(ModelSpec("test_efficientnet", 32), "finetune").freeze == 1
    with pytest.raises(
        UsageError, match=r"freeze=-1 keeps layers .* sinet_test starts from scratch"
    ):
        _specs(run_in(tmp_path / "b", photos, freeze=-1, models=("sinet_test",)), images)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fit", "--freeze", 2, "--linear-probe"), "leave --freeze out"),
        (("train", "--freeze", 2, "--linear-probe"), "leave --freeze out"),
        (("fit", "--weights", "nowhere.pth"), "nowhere.pth does not exist; give a folder"),
        (("train", "--linear-probe", "--model", "sinet_test"), "sinet_test starts from scratch"),
    ],
)
def test_words_that_make_no_sense_together(
    sinet: Run, photos: Path, tmp_path: Path, words: tuple[Any, ...], says: str
) -> None:
    result = sinet(words[0], photos, *words[1:], "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_few_images_a_class_have_a_recipe_of_their_own(tmp_path: Path) -> None:
    known = ModelSpec("test_efficientnet", 32, weights="some.pth")
    few = open_dataset(draw(tmp_path / "few", FEW_IMAGES // 2))
    many = open_dataset(draw(tmp_path / "many", 2 * FEW_IMAGES))
    assert usual_recipe(Classify, known, few) == "few_images"
    assert usual_recipe(Classify, known, many) == "finetune"
    assert usual_recipe(Classify, ModelSpec("sinet_test", 32), few) == "default"
