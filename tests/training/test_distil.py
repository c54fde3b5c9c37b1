"""Learning from a teacher: each kind of loss, whom it accepts, and what a resumed run needs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess, PreprocessModule
from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.checkpoint import Interrupted, Keeper
from sinet.training.distil import MAPS, Distiller, attention, features, relation
from sinet.training.recipe import Recipe
from sinet.training.teacher import Teacher, feature_maps, open_teacher

STILL = {"crop": "none", "flip": "none"}
CONVS = ModelSpec("test_efficientnet", 32)


class Maps(nn.Module):
    """A network of timm's kind: one convolution, pooling, a classifier."""

    def __init__(self, classes: int = 4, width: int = 6, stride: int = 4) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, width, stride, stride)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(width, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x).relu()

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(self.drop(x.mean((2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Pair(nn.Module):
    """A network with a second head for its teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.head_dist = nn.Linear(768, 4), nn.Linear(768, 4)
        self.both = False

    def set_distilled_training(self, enable: bool) -> None:
        self.both = enable

    def forward(self, x: Tensor) -> Any:
        one, other = self.head(x.flatten(1)), self.head_dist(x.flatten(1))
        return (one, other) if self.both and self.training else (one + other) / 2


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training on the usual classes."""
    return tiny.run(tmp_path_factory.mktemp("teacher"), tiny.QUICK.replace(epochs=6)).folder


def make(network: nn.Module, other: nn.Module, **recipe: Any) -> tuple[Classify, Tensor, Tensor]:
    """A task with a teacher, a batch of its images, their labels."""
    chosen = Recipe().replace(teacher="somebody", **{**STILL, **recipe})
    task = Classify(network, tiny.dataset(), chosen, tiny.PREPROCESS)
    known = Teacher(other.eval(), tiny.PREPROCESS)
    task.distil = Distiller(known, network, chosen, tiny.PREPROCESS, False)
    torch.manual_seed(3)
    return task, torch.randn(8, 3, 16, 16), torch.arange(8) % 4


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_logits_are_compared_at_a_temperature(weight: float) -> None:
    torch.manual_seed(0)
    ours, theirs = Maps().eval(), Maps()
    task, images, labels = make(ours, theirs, distil_weight=weight, temperature=3.0)
    p, q = ((net(images) / 3).softmax(1) for net in (theirs, ours))
    divergence = (p * (p / q).log()).sum(1).mean() * 9
    expected = (1 - weight) * F.cross_entropy(ours(images), labels) + weight * divergence
    torch.testing.assert_close(task.distil(task, images, labels, None), expected)


def test_the_first_choice_is_a_label() -> None:
    torch.manual_seed(0)
    ours, theirs = Maps().eval(), Maps()
    task, images, labels = make(ours, theirs, distil="hard", distil_weight=1.0)
    expected = F.cross_entropy(ours(images), theirs(images).argmax(1))
    torch.testing.assert_close(task.distil(task, images, labels, None), expected)


@pytest.mark.parametrize("kind", ["logits", "hard"])
def test_of_several_labels_each_is_compared(kind: str) -> None:
    torch.manual_seed(0)
    ours, theirs = Maps(3).eval(), Maps(3).eval()
    data, chosen = tiny.multilabel(), Recipe(teacher="somebody", distil=kind, distil_weight=1.0)
    task = Classify(ours, data, chosen, tiny.PREPROCESS)
    task.distil = Distiller(
        Teacher(theirs, tiny.PREPROCESS), ours, task.recipe, tiny.PREPROCESS, data.multilabel
    )
    images, labels = torch.randn(5, 3, 16, 16), torch.zeros(5, 3)
    said, heard = theirs(images), ours(images)
    if kind == "hard":
        expected = F.binary_cross_entropy(heard.sigmoid(), (said > 0).float())
    else:
        expected = 4 * F.binary_cross_entropy((heard / 2).sigmoid(), (said / 2).sigmoid())
    torch.testing.assert_close(task.distil(task, images, labels, None), expected)


@pytest.mark.parametrize("kind", sorted(MAPS))
def test_maps_of_other_widths_and_sizes_are_compared(kind: str) -> None:
    torch.manual_seed(0)
    ours, theirs = Maps(width=6, stride=2), Maps(width=9, stride=4)
    task, images, labels = make(ours, theirs, distil=kind, distil_weight=0.9, dropout=0.0)
    task.train()
    optimizer = task.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(30):
        loss = task.distil(task, images, labels, None)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    learns = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert all(id(parameter) in learns for parameter in task.distil.parameters())
    assert (kind == "features") == any(True for _ in task.distil.parameters())
    assert not any("teacher" in name for name in task.state_dict())


def test_known_values_of_the_map_losses() -> None:
    one = torch.zeros(2, 2, 1, 2)
    one[:, 0] = 1.0  # unit vectors along the first channel, everywhere alike
    other = one.flip(1)
    assert features(one, 7 * one).item() == pytest.approx(0.0)  # lengths do not matter
    assert features(one, other).item() == pytest.approx(2.0)  # |e1 - e2|^2
    left, right = one * torch.tensor([1.0, 0.0]), one * torch.tensor([0.0, 1.0])
    assert attention(left, 5 * left).item() == pytest.approx(0.0)
    assert attention(left, right).item() == pytest.approx(2.0)
    line = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
    bent = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1)
    assert relation(line, 4 * line + 1).item() == pytest.approx(0.0)
    # distances 1, 3, 2 over their mean 2, against 1, 1, 0 over 2/3
    assert relation(line, bent).item() == pytest.approx((0.5 * 1 + 0 + 0.5 * 1) / 3)
    assert relation(line[:1], bent[:1]).item() == 0.0


def test_a_second_head_learns_from_the_teacher_and_the_first_from_the_labels() -> None:
    ours = Pair()
    task, images, labels = make(ours, Maps(), distil="hard", distil_weight=0.5)
    task.train()
    said = task.distil.teacher(images, tiny.PREPROCESS).argmax(1)
    one, other = ours(images)
    expected = (F.cross_entropy(one, labels) + F.cross_entropy(other, said)) / 2
    torch.testing.assert_close(task.distil(task, images, labels, None), expected)
    assert task.eval().network(images).shape == (8, 4)


def test_the_teacher_sees_images_as_it_is_used_to() -> None:
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    used = Preprocess(24, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    ours = PreprocessModule(tiny.PREPROCESS)(pixels)
    translated = Teacher(Maps(), used).translated(ours, tiny.PREPROCESS)
    torch.testing.assert_close(translated, PreprocessModule(used)(pixels), atol=1e-4, rtol=1e-4)


def test_networks_without_maps_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="TinyNet gives no feature maps"):
        feature_maps(tiny.TinyNet(), torch.zeros(1, 3, 16, 16))
    tokens = timm.create_model("test_vit", num_classes=2)
    with pytest.raises(UsageError, match="use distil=logits"):
        feature_maps(tokens, torch.zeros(1, 3, 160, 160))


def test_a_run_teaches_and_a_resume_is_bit_identical(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, more in (("once", {**STILL, "dropout": 0.2}), ("always", {"mixup": 0.2})):
        recipe = tiny.QUICK.replace(teacher=str(teacher), epochs=4, **more)
        whole = tiny.run(tmp_path / name / "whole", recipe)
        stop_at(monkeypatch, 7, lambda r=recipe, n=name: tiny.run(tmp_path / n / "cut", r))
        assert tiny.identical(whole, tiny.run(tmp_path / name / "cut", recipe))
        plain = tiny.run(tmp_path / name / "plain", tiny.QUICK.replace(epochs=4, **more))
        assert not tiny.identical(whole, plain)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, call: Any) -> None:
    """Run `call` until it is interrupted after this step."""
    ended = Keeper.on_train_batch_end

    def stop(self: Keeper, trainer: Any, *rest: Any, **more: Any) -> None:
        self.asked = self.asked or trainer.global_step == step
        ended(self, trainer, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", stop)
        with pytest.raises(Interrupted):
            call()


def test_a_projector_is_resumed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, options = tiny.dataset(48, 12), {"spec": CONVS}
    preprocess = Preprocess(32, 3, (0.5,) * 3, (0.25,) * 3)
    first = tiny.run(tmp_path / "t", tiny.QUICK.replace(epochs=1), data, preprocess=preprocess,
                     **options)  # fmt: skip
    for optimizer in ("adamw", "muon"):
        recipe = tiny.QUICK.replace(teacher=str(first.folder), distil="features", epochs=2,
                                    optimizer=optimizer)  # fmt: skip

        def go(name: str, recipe: Recipe = recipe) -> Any:
            return tiny.run(tmp_path / name, recipe, data, preprocess=preprocess, **options)

        whole = go(f"{optimizer}-whole")
        stop_at(monkeypatch, 4, lambda go=go, o=optimizer: go(f"{o}-cut"))
        assert tiny.identical(whole, go(f"{optimizer}-cut"))


def test_a_teacher_that_looks_once_is_asked_once(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    ask = Teacher.__call__

    def counted(self: Teacher, images: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append(len(images))
        return ask(self, images, *rest, **more)

    monkeypatch.setattr(Teacher, "__call__", counted)
    tiny.run(tmp_path / "once", tiny.QUICK.replace(teacher=str(teacher), **STILL))
    assert sum(seen) == 80  # the training images
    seen.clear()
    tiny.run(tmp_path / "always", tiny.QUICK.replace(teacher=str(teacher), flip="none"))
    assert sum(seen) == 15 * 16  # steps x batch


def test_answers_belong_to_their_images(teacher: Path) -> None:
    data, recipe = tiny.dataset(), Recipe(teacher=str(teacher), **STILL)
    task = Classify(tiny.TinyNet(4), data, recipe, tiny.PREPROCESS)
    opened = open_teacher(recipe, data, tiny.PREPROCESS)
    task.distil = Distiller(opened, task.network, recipe, tiny.PREPROCESS, False)
    task.on_train_start()
    batch = task.train_source().__getitems__([70, 3, 12])
    at = torch.tensor([70, 3, 12])
    live = opened(task.augment(batch, 16)[0], tiny.PREPROCESS)
    torch.testing.assert_close(task.distil.answers[at], live)


def test_another_teacher_is_another_run(tmp_path: Path, teacher: Path) -> None:
    recipe = tiny.QUICK.replace(teacher=str(teacher))
    tiny.run(tmp_path / "run", recipe)
    with pytest.raises(UsageError, match=re.escape("recipe.teacher was ")):
        tiny.run(tmp_path / "run", tiny.QUICK)
    weights = teacher / "weights.safetensors"
    before = weights.read_bytes()
    try:  # the same folder, trained again
        save_file({k: v + 1 for k, v in tiny.TinyNet(4).state_dict().items()}, weights)
        with pytest.raises(UsageError, match="another run: teacher was "):
            tiny.run(tmp_path / "run", recipe)
    finally:
        weights.write_bytes(before)


def test_a_run_that_knew_of_no_teacher_goes_on(tmp_path: Path) -> None:
    """Recipes of finished runs lack the fields that came later."""
    first = tiny.run(tmp_path)
    facts = tmp_path / "trained.json"
    text = facts.read_text()
    assert '"teacher": "",' in text
    facts.write_text(text.replace('"teacher": "",', ""))
    assert tiny.run(tmp_path) == first


def renamed(data: ImageDataset) -> ImageDataset:
    return dataclasses.replace(data, classes=["other", *data.classes[1:]])


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, teacher: Path) -> None:
    recipe = Recipe(teacher=str(teacher))
    with pytest.raises(UsageError, match=r"4 classes \(class 0, .* these data .*\(other, class 1"):
        open_teacher(recipe, renamed(tiny.dataset()), tiny.PREPROCESS)
    grey = tiny.dataset()
    grey.channels = 1
    with pytest.raises(UsageError, match="3 channels, these have 1"):
        open_teacher(recipe, grey, tiny.PREPROCESS)
    file = tmp_path / "known.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=9).state_dict(), file)
    named = Recipe(teacher="test_efficientnet", teacher_weights=str(file))
    with pytest.raises(UsageError, match=r"other classes than the 4 .* --out runs/teacher"):
        open_teacher(named, tiny.dataset(), tiny.PREPROCESS)
    save_file(timm.create_model("test_efficientnet", num_classes=4).state_dict(), file)
    assert open_teacher(named, tiny.dataset(), tiny.PREPROCESS).preprocess.size == 16


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("test_efficientnett", "unknown teacher .* did you mean 'test_efficientnet'"),
        ("sinet_test", "no weights of the teacher sinet_test are at hand"),
        ("{here}", "not the folder of a finished training"),
    ],
)
def test_nobody_is_no_teacher(name: str, says: str, tmp_path: Path) -> None:
    recipe = Recipe(teacher=name.format(here=tmp_path))
    with pytest.raises(UsageError, match=says):
        open_teacher(recipe, tiny.dataset(), tiny.PREPROCESS)


def test_nothing_is_lost_when_a_teacher_is_refused(tmp_path: Path) -> None:
    tiny.run(tmp_path)
    with pytest.raises(UsageError, match="unknown teacher"):
        tiny.run(tmp_path, tiny.QUICK.replace(teacher="nobody"), resume=False)
    assert (tmp_path / "weights.safetensors").is_file()
