"""Test-time mirroring: it is in the file, so that what is measured is what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import test_instances
import tiny
import torch
from tester import TaskTester
from torch import Tensor, nn

from sinet.deployment.export import export_network, shipped
from sinet.models.spec import ModelSpec
from sinet.road.finish import Judge
from sinet.tasks import learner, list_tasks
from sinet.tasks.base import ImageTask
from sinet.training.recipe import Recipe
from sinet.training.trained import Trained

TASKS = [task for task in list_tasks() if "tta" in learner(task).options]


def trained(task: ImageTask) -> Trained:
    """What a training of the task would have left."""
    data = task.data
    return Trained(
        ModelSpec("net", 16), task.preprocess, task.recipe, list(data.classes),
        list(data.class_ids), data.multilabel, task.preprocess.channels, Path("none"), {}, 1.0, 1,
        1.0, 1.0, "scratch", task.name,
    )  # fmt: skip


def parts(outputs: Any) -> list[np.ndarray]:
    found = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return [part.numpy() for part in found]


@pytest.mark.parametrize("name", TASKS)
def test_the_file_looks_twice(testers: dict[str, TaskTester], name: str, tmp_path: Path) -> None:
    tester = testers[name]
    once, twice = (tester.make(flip="horizontal", tta=tta).eval() for tta in (False, True))
    torch.manual_seed(0)
    network = test_instances.lively("mask_rcnn") if name == "instances" else tester.network()
    once.network = twice.network = network.eval()
    x = torch.randn(twice.example_input().shape)
    with torch.inference_mode():
        plain, expected = parts(once.outputs(x)), parts(twice.outputs(x))
    shape, channels = twice.preprocess.shape, twice.preprocess.channels
    for task, outputs in ((once, plain), (twice, expected)):
        whole = shipped(trained(task), network)
        file = export_network(whole, shape, channels, tmp_path / "x.onnx", task.output_names())
        found = ort.InferenceSession(str(file)).run(None, {"input": x.numpy()})
        for part, other in zip(found, outputs, strict=True):
            assert np.abs(part - other).max() < 1e-4 * max(10, np.abs(other).max())
    assert any(a.shape != b.shape or np.abs(a - b).max() > 0.01
               for a, b in zip(plain, expected, strict=True))  # fmt: skip


@pytest.mark.parametrize("name", ["segment", "superres", "volume"])
def test_maps_are_turned_back(testers: dict[str, TaskTester], name: str) -> None:
    """A network that copies its input gives the same with a mirror and without."""
    task = testers[name].make(tta=True).eval()
    task.network = nn.Identity().eval()
    x = torch.randn(task.example_input().shape)
    assert torch.equal(task.outputs(x), x)


class Counting(nn.Module):
    """Counts how often it is asked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.asked = network, 0

    def forward(self, x: Tensor) -> Any:
        self.asked += 1
        return self.network(x)


def test_the_judge_looks_no_more_often_than_the_file() -> None:
    task = learner("classify")(
        tiny.TinyNet(4), tiny.dataset(), Recipe(tta=True), tiny.PREPROCESS
    ).eval()
    known, network = trained(task), Counting(task.network).eval()
    judge = Judge(task.data, known)
    judge(network)
    bare = network.asked
    judge(shipped(known, network))
    assert network.asked == 3 * bare
