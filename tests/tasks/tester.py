"""What every task must do; a task's test class inherits this and says which task and data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pytest
import torch
from torch import nn

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.tasks.base import ImageTask
from sinet.training.evaluate import evaluate
from sinet.training.loader import eval_batches
from sinet.training.recipe import Recipe


class TaskTester(ABC):
    """Tests of the contract between a task, the training loop and the export."""

    task: type[ImageTask]
    metric_names: frozenset[str]
    preprocess = Preprocess(16, 3, (0.5,) * 3, (0.25,) * 3)

    @abstractmethod
    def data(self) -> ImageDataset:
        """A small data set."""

    @abstractmethod
    def network(self) -> nn.Module:
        """A small network for it."""

    def make(self, **recipe: Any) -> ImageTask:
        torch.manual_seed(0)
        return self.task(self.network(), self.data(), Recipe().replace(**recipe), self.preprocess)

    def batch(self, task: ImageTask, size: int = 8) -> Any:
        return task.train_source(limit=size).__getitems__(list(range(size)))

    def test_the_loss_is_finite_and_reaches_every_weight(self) -> None:
        task = self.make()
        task.training_step(self.batch(task), 0).backward()
        for name, parameter in task.network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_a_few_steps_lower_the_loss(self) -> None:
        task = self.make(lr=0.01, warmup=0.0, crop="none", flip="none")
        task.total_steps = 100
        optimizer, batch, losses = task.configure_optimizers()["optimizer"], self.batch(task), []
        for step in range(25):
            loss = task.training_step(batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]

    def test_a_step_is_a_function_of_the_seed(self) -> None:
        wanted = {"mixup": 0.5, "randaugment": 5, "random_erasing": 0.5}
        random = {name: value for name, value in wanted.items() if name in self.task.options}
        losses = [
            task.training_step(self.batch(task), 0).item()
            for task in (self.make(**random), self.make(**random), self.make(**random, seed=1))
        ]
        assert losses[0] == losses[1] != losses[2]

    def test_validation_gives_the_promised_metrics_and_starts_anew(self) -> None:
        task = self.make()
        batches = eval_batches(task.val_source(), 5)
        first = evaluate(task, task.network, batches)
        assert set(first) == self.metric_names
        assert task.signature.metric in first
        assert evaluate(task, task.network, batches) == pytest.approx(first)

    def test_validation_does_not_depend_on_the_batch_size(self) -> None:
        task = self.make()
        sizes = (3, 20)
        one, other = (
            evaluate(task, task.network, eval_batches(task.val_source(), size)) for size in sizes
        )
        assert one == pytest.approx(other, abs=1e-6)

    def test_validation_leaves_network_and_mode_as_they_were(self) -> None:
        task = self.make()
        task.train()
        before = {key: value.clone() for key, value in task.state_dict().items()}
        network, other = task.network, self.network()
        evaluate(task, other, eval_batches(task.val_source(), 8))
        assert task.network is network
        assert network.training
        assert all(torch.equal(before[key], value) for key, value in task.state_dict().items())

    def inputs(self, task: ImageTask, indices: list[int]) -> Any:
        """What `predict` takes of validation samples."""
        return task.val_source().__getitems__(indices)[0]

    def test_one_prediction_an_image(self) -> None:
        task = self.make().eval()
        assert len(task.predict(self.inputs(task, [0, 1, 2]))) == 3

    def test_what_an_export_needs(self) -> None:
        task = self.make().eval()
        example = task.example_input()
        assert example.shape == (1, self.preprocess.channels, *self.preprocess.shape)
        outputs = task.network(example)
        found = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        assert len(found) == len(task.output_names())
