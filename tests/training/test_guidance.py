"""Guidance: what CKA says, which layers meet, and that a guided training is still a training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch
from torch import nn

from sinet.errors import UsageError
from sinet.models.spec import ModelSpec
from sinet.tasks.classify import Classify
from sinet.training.checkpoint import Interrupted, Keeper, read_checkpoint
from sinet.training.guidance import Alignment, Guidance, Maps, guided, linear_cka, spread
from sinet.training.trained import Trained

GUIDE = ModelSpec("resnet18", 16, {"channels": (8, 8, 8, 8), "zero_init_last": False})
BUSY = tiny.QUICK.replace(dropout=0.2, ema=0.9, cutmix=1.0, random_erasing=0.5, warmup=0.2)


def run(out: Path, guidance: Guidance, recipe: Any = tiny.QUICK, **options: Any) -> Trained:
    return tiny.run(out, recipe, task=guided(Classify, guidance), **options)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_is_that_of_its_definition() -> None:
    x, y = normal(7, 3, 2), normal(7, 5, seed=1)
    h = torch.eye(7, dtype=torch.float64) - 1 / 7
    k, l = (h @ m.flatten(1) @ m.flatten(1).T @ h for m in (x, y))
    expected = (k * l).sum() / ((k * k).sum() * (l * l).sum()).sqrt()
    torch.testing.assert_close(linear_cka(x, y), expected, atol=1e-12, rtol=0)


def test_cka_sees_neither_rotation_nor_scale_nor_shift_but_what_is_different() -> None:
    x = normal(50, 6)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=1))
    assert linear_cka(x, 3 * x @ turn + 2).item() == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, normal(50, 6, seed=2)) < 0.3
    assert linear_cka(x, torch.ones(50, 4, dtype=torch.float64)) == 0
    huge = linear_cka(1e8 * x.float(), 1e8 * x.float())  # the fourth power is infinite
    assert huge.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("guide", "target", "expected"),
    [
        (3, 3, {0: 0, 1: 1, 2: 2}),
        (3, 5, {0: 0, 2: 1, 4: 2}),
        (5, 2, {0: 2, 1: 4}),  # 0.5 rounds to the even 0; the last of several counts
        (1, 4, {0: 0}),
    ],
)
def test_layers_are_spread_evenly(guide: int, target: int, expected: dict[int, int]) -> None:
    assert spread(guide, target) == expected


def test_a_deeper_guide_loses_layers_as_in_the_paper() -> None:
    """54 layers of ResNet-50 on the 50 of its plain twin: the card counts 50 that are used."""
    assert len(spread(54, 50)) == 50


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet18", 21), ("resnet50", 54), ("plain_convnet50", 50), ("deep_fcn", 48)],
)
def test_the_papers_networks_have_the_papers_number_of_layers(name: str, layers: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(name).eval()
        maps = Maps(network)
        with maps.recording():
            network(torch.empty(2, 3, 224, 224))
    assert len(maps.body(2)) == layers
    assert not any(module._forward_hooks for module in network.modules())


class Odd(nn.Module):
    """A layer that is called twice, a recurrent one, and one whose batch is not first."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.twice, self.turned, self.idle, self.fc = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(x)
        x = self.twice(self.twice(x))
        x = x + self.turned(x.transpose(0, 1)).transpose(0, 1)
        return self.fc(x.mean(1))


def test_layers_are_taken_in_the_order_of_their_calls() -> None:
    network = Odd()
    maps = Maps(network)
    with maps.recording():
        network(torch.randn(3, 5, 4))
    assert [name for name, _ in maps.found] == ["lstm", "twice", "twice", "turned", "fc"]
    assert [tuple(m.shape) for m in maps.body(3)] == [(3, 5, 4)] * 3


@pytest.mark.parametrize(
    ("name", "said"),
    [("turned", r"gave \(5, 3, 4\) for a batch of 3"), ("idle", "was not called")],
)
def test_a_layer_that_cannot_be_compared_is_explained(name: str, said: str) -> None:
    network = Odd()
    alignment = Alignment(network, Odd(), [(name, "lstm")])
    with alignment.ours.recording():
        network(torch.randn(3, 5, 4))
    with pytest.raises(UsageError, match=said):
        alignment.distances(torch.randn(3, 5, 4))


def test_pairs_by_name_are_compared_in_their_order() -> None:
    target, guide, x = Odd(), Odd(), torch.randn(8, 5, 4)
    alignment = Alignment(target, guide, [("twice", "lstm"), ("fc", "fc")])
    with alignment.ours.recording():
        logits = target(x)
    found = alignment.distances(x)
    assert found.shape == (2,)
    torch.testing.assert_close(found[1], 1 - linear_cka(logits, guide(x)))


def test_unknown_layers_get_the_nearest_name(tmp_path: Path) -> None:
    for pair in (("stam", "conv1"), ("stem", "convl")):
        near = {"stam": "stem", "stem": "conv1"}[pair[0]]
        with pytest.raises(UsageError, match=f"did you mean '{near}'"):
            run(tmp_path, Guidance(GUIDE, pairs=(pair,)))


def test_a_network_without_layers_is_explained() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    alignment = Alignment(network, Odd())
    with alignment.ours.recording():
        network(torch.randn(3, 2, 2))
    alignment.guide = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="name pairs of layers"):
        alignment.distances(torch.randn(3, 2, 2))


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"alpha": float("nan")}, {"share": 1.1}, {"share": -0.1}]
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} .* given, expected"):
        Guidance(GUIDE, **wrong)  # type: ignore[arg-type]


def test_a_guide_of_weight_zero_changes_nothing(tmp_path: Path) -> None:
    plain = tiny.run(tmp_path / "plain", BUSY)
    assert tiny.identical(plain, run(tmp_path / "zero", Guidance(GUIDE, alpha=0.0), BUSY))
    assert tiny.identical(plain, run(tmp_path / "never", Guidance(GUIDE, share=0.0), BUSY))
    assert not tiny.identical(plain, run(tmp_path / "guided", Guidance(GUIDE), BUSY))


def test_guidance_brings_layers_nearer(tmp_path: Path) -> None:
    pairs = (("body", "layer2.0.conv1"),)
    guidance = Guidance(GUIDE, alpha=3.0, pairs=pairs)
    x = tiny.dataset().val.subset(range(24))  # type: ignore[arg-type]
    images = torch.stack([torch.from_numpy(x.image(i, 3).copy()) for i in range(24)])
    images = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    found = []
    for trained in (
        tiny.run(tmp_path / "plain", tiny.QUICK.replace(epochs=20)),
        run(tmp_path / "guided", guidance, tiny.QUICK.replace(epochs=20)),
    ):
        network = trained.model()
        guide = guidance.network(tiny.dataset(), tiny.PREPROCESS)
        alignment = Alignment(network, guide, pairs)
        with alignment.ours.recording(), torch.no_grad():
            network(images)
            found.append(alignment.distances(images).item())
    assert found[1] < 0.8 * found[0]


def test_only_the_first_steps_are_guided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    distances = Alignment.distances
    monkeypatch.setattr(
        Alignment, "distances", lambda self, x: seen.append(len(x)) or distances(self, x)
    )
    run(tmp_path, Guidance(GUIDE, share=0.4))
    assert len(seen) == 6  # of 15 steps


def test_the_guide_neither_learns_nor_moves_nor_is_saved(tmp_path: Path) -> None:
    guidance = Guidance(GUIDE)
    before = guidance.network(tiny.dataset(), tiny.PREPROCESS).state_dict()
    task = guided(Classify, guidance)
    made: list[Any] = []
    tiny.run(tmp_path, task=lambda *parts: made.append(task(*parts)) or made[0])
    guide = made[0]._alignment.guide
    assert not guide.training
    assert not any(p.requires_grad for p in guide.parameters())
    assert all(torch.equal(before[k], v) for k, v in guide.state_dict().items())
    saved = read_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert not [name for name in saved["state_dict"] if "layer1" in name]


def test_a_guided_run_resumes_bit_for_bit_and_with_its_own_guide_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guidance = Guidance(GUIDE, share=0.8)
    whole = run(tmp_path / "whole", guidance, BUSY)
    step = Keeper.on_train_batch_end

    def stop(self: Keeper, trainer: Any, *rest: Any, **more: Any) -> None:
        self.asked = trainer.global_step == 7
        step(self, trainer, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", stop)
        with pytest.raises(Interrupted):
            run(tmp_path / "stopped", guidance, BUSY)
    with pytest.raises(UsageError, match=r"guidance\.alpha was 1\.0, is 0\.5"):
        run(tmp_path / "stopped", Guidance(GUIDE, alpha=0.5, share=0.8), BUSY)
    resumed = run(tmp_path / "stopped", guidance, BUSY)
    assert tiny.identical(whole, resumed)
    assert whole.metrics == resumed.metrics


def test_a_finished_training_guides(tmp_path: Path) -> None:
    tiny.run(tmp_path / "guide")
    first, again = (run(tmp_path / name, Guidance(tmp_path / "guide")) for name in "ab")
    assert tiny.identical(first, again)
    other = tiny.PREPROCESS.__class__(16, 3, (0.4,) * 3, (0.25,) * 3)
    with pytest.raises(UsageError, match=r"other inputs: input\.mean was .*0\.5.*, is .*0\.4"):
        run(tmp_path / "c", Guidance(tmp_path / "guide"), preprocess=other)
    with pytest.raises(UsageError, match="no finished training"):
        run(tmp_path / "d", Guidance(tmp_path / "nothing"))


def test_an_untrained_guide_follows_from_its_seed() -> None:
    before = torch.get_rng_state()
    guides = [
        Guidance(GUIDE, seed=seed).network(tiny.dataset(), tiny.PREPROCESS).state_dict()
        for seed in (0, 0, 1)
    ]
    same = [
        torch.equal(a["conv1.weight"], b["conv1.weight"]) for a, b in itertools.pairwise(guides)
    ]
    assert same == [True, False]
    assert torch.get_rng_state().equal(before), "who comes after it draws as without it"
