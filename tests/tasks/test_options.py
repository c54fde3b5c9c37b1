"""Options of a recipe: what a task knows changes something, what it does not know is refused."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tester import TaskTester
from torch import Tensor

from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.tasks import learner, list_tasks
from sinet.tasks.base import ImageTask
from sinet.training.recipe import TASK_OPTIONS, Recipe

OTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "loss": ({}, {"loss": "dice"}),
    "label_smoothing": ({}, {"label_smoothing": 0.3}),
    "mixup": ({}, {"mixup": 1.0}),
    "cutmix": ({}, {"cutmix": 1.0}),
    "mix_prob": ({"mixup": 1.0}, {"mix_prob": 0.0}),
    "mosaic": ({}, {"mosaic": 1.0}),
    "randaugment": ({}, {"randaugment": 9.0}),
    "color_jitter": ({}, {"color_jitter": 0.9}),
    "random_erasing": ({}, {"random_erasing": 1.0}),
    "flip": ({}, {"flip": "horizontal"}),
    "crop": ({}, {"crop": "pad"}),
    "crop_scale": ({"crop": "resized"}, {"crop_scale": 0.05}),
    "progressive": ({}, {"progressive": 0.5}),
    "tta": ({"flip": "horizontal"}, {"tta": True}),
    "teacher": ({}, {"teacher": "runs/teacher"}),
}
"""For each option: a recipe where it may act, and another value of it."""
KNOWN = [
    (task, option)
    for task in list_tasks()
    for option in sorted(learner(task).options - {"teacher"})  # see training/test_distil.py
]
UNKNOWN = [
    (task, option)
    for task in list_tasks()
    for option in sorted(TASK_OPTIONS - learner(task).options - {"flip"})
]
"""Not `flip`: of its two values one is every recipe's, the other switches it off."""


def test_every_task_is_here(testers: dict[str, TaskTester]) -> None:
    assert sorted(testers) == list_tasks()
    assert set(OTHER) == TASK_OPTIONS
    assert {f.name for f in fields(Recipe)} > TASK_OPTIONS
    assert set().union(*(learner(task).options for task in list_tasks())) == TASK_OPTIONS


def learned(tester: TaskTester, recipe: dict[str, Any]) -> list[Tensor]:
    """What a training step sees and learns by, and what validation hears."""
    task = tester.make(**{"flip": "none", "crop": "none", **recipe}).eval()
    task.total_steps = 100
    batch = tester.batch(task)
    torch.manual_seed(1)
    with torch.no_grad():
        images, targets = task.augment(batch, task.train_size())
        if "progressive" in recipe:  # some of these networks take one size only
            return [images]
        task.network.train()
        loss = task.loss(task.network(task.ordered(images)), targets)
        task.network.eval()
        heard = task.outputs(images[:1])
    raw = [heard] if isinstance(heard, Tensor) else list(heard)
    return [images, loss, *raw]


@pytest.mark.parametrize(("task", "option"), KNOWN)
def test_what_a_task_knows_changes_something(
    testers: dict[str, TaskTester], task: str, option: str
) -> None:
    usual, other = OTHER[option]
    plain = learned(testers[task], usual)
    same, changed = learned(testers[task], usual), learned(testers[task], {**usual, **other})
    assert all(map(torch.equal, plain, same))  # else any two would differ
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(plain, changed, strict=False)
    )


@pytest.mark.parametrize(("task", "option"), UNKNOWN)
def test_what_a_task_does_not_know_is_refused(
    testers: dict[str, TaskTester], task: str, option: str
) -> None:
    _, other = OTHER[option]
    if option == "crop":
        other = {"crop": "resized"}  # `pad` is what a recipe that says nothing has
    (value,) = other.values()
    known = ", ".join(sorted(learner(task).options))
    says = f"{option}={str(value).lower()} means nothing to {task}; .* own options: {known}"
    with pytest.raises(UsageError, match=says):
        testers[task].make(**other)


@pytest.mark.parametrize("task", list_tasks())
def test_what_is_off_is_no_matter(testers: dict[str, TaskTester], task: str) -> None:
    assert isinstance(testers[task].make(flip="none", crop="none"), ImageTask)


@pytest.mark.parametrize("task", list_tasks())
def test_a_tasks_own_recipes_ask_for_what_it_knows(task: str) -> None:
    learns = learner(task)
    names = ["sinet_tiny", *(["spectral_patch"] if task == "hyperspectral" else [])]
    specs = [ModelSpec(name, 64, weights=weights) for name in names for weights in (None, "x.pth")]
    for spec in specs:
        Recipe.from_yaml(learns.recipe_name(spec)).check_for(task, learns.options)


def test_a_network_of_one_size_says_that_it_does_not_grow(
    testers: dict[str, TaskTester], caplog: pytest.LogCaptureFixture
) -> None:
    tester = testers["classify"]
    network = tester.network()
    network.pretrained_cfg = {"fixed_input_size": True}  # type: ignore[assignment]
    recipe = Recipe(progressive=0.5)
    tester.task(network, tester.data(), recipe, tester.preprocess)
    assert "trained without progressive" in caplog.text


def test_masks_stay_where_only_pixels_change(testers: dict[str, TaskTester]) -> None:
    tester = testers["segment"]
    still = {"flip": "none", "crop": "none"}
    plain, erased = tester.make(**still), tester.make(**still, random_erasing=1.0)
    batch = tester.batch(plain)
    seen, masks = plain.augment(batch, 16)
    holes, same = erased.augment(batch, 16)
    assert torch.equal(masks, same)
    assert ((holes == 0) | (holes == seen)).all()
    smaller, full = plain.augment(batch, 8)
    assert smaller.shape[2:] == (8, 24)  # a width is a multiple of 32, or all there is
    assert torch.equal(full, masks)


def test_boxes_stay_where_pixels_are_erased(testers: dict[str, TaskTester]) -> None:
    tester = testers["detect"]
    still = {"flip": "none", "crop": "none"}
    plain, erased = tester.make(**still), tester.make(**still, random_erasing=1.0)
    batch = tester.batch(plain)
    seen, boxes = plain.augment(batch, 64)
    holes, same = erased.augment(batch, 64)
    assert torch.equal(boxes, same)
    assert 0 < (holes != seen).float().mean() < 0.5


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tta": True, "flip": "none"}, "flip=none rules out; set flip=horizontal"),
        ({"label_smoothing": 0.1, "loss": "dice"}, "label_smoothing=0.1 is no part of loss=dice"),
    ],
)
def test_options_that_exclude_each_other(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        Recipe().replace(**values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"crop_scale": 0.2}, "crop_scale=0.2 does nothing without crop=resized"),
        ({"mix_prob": 0.5}, "mix_prob=0.5 does nothing without mixup or cutmix"),
        ({"distil": "hard"}, "distil=hard does nothing without a teacher"),
        ({"drop_path_ramp": 0.5}, "drop_path_ramp=0.5 does nothing without drop_path"),
        (
            {"teacher": "x", "distil": "hard", "temperature": 4.0},
            "temperature=4.0 does nothing without a teacher and distil=logits",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(
    testers: dict[str, TaskTester], values: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        testers["classify"].make(**values)


def test_a_command_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    from sinet.tasks.train_command import run_training

    data = tmp_path / "scenes"
    importlib.import_module("test_hyperspectral").write(data, 2)
    with pytest.raises(UsageError, match=r"mixup=0\.2 means nothing to hyperspectral"):
        run_training(
            data, model="freenet_test", recipe="", out=tmp_path / "run", size=32, weights="none",
            task="", overrides=("mixup=0.2",), given={}, init=None,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
