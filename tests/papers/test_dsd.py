"""DSD: the task is the paper's, the networks are nested, gradient descent is equivariant."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sinet.papers import dsd
from sinet.papers._signal import (
    Images,
    Method,
    Task,
    Training,
    accuracy,
    draw,
    learned,
    outputs,
    samples_needed,
    soft_threshold,
    start,
)
from sinet.papers.base import Setting

GD = Method("gd", (0.1, 0.3), 0.3, 40)
ADAM = Method("adam", (0.1, 0.03), 0.3, 40)


def signal(task: Task, seed: int) -> torch.Tensor:
    """The direction w* that `draw` gives a seed."""
    w = torch.randn(task.d, generator=torch.Generator().manual_seed(1000 * seed))
    return w / w.norm()


def test_the_sampler_has_the_moments_of_the_task() -> None:
    task, count = Task(4, 3, 0.5), 200_000
    images = draw(task, count, [7])
    x, y, w = images.x[0], images.y[0], signal(task, 7)
    assert set(y.unique().tolist()) == {-1.0, 1.0}
    assert abs(y.mean()) < 0.01
    mean = (y[:, None, None] * x).mean(0)
    torch.testing.assert_close(mean, (w / 4).expand(4, 3), atol=0.01, rtol=0)
    flat = x.flatten(1)
    covariance = flat.T @ flat / count
    within = torch.outer(w, w) / 4 + 0.25 * torch.eye(3)  # patches are not correlated
    torch.testing.assert_close(covariance, torch.block_diag(*[within] * 4), atol=0.01, rtol=0)


def test_each_image_has_its_signal_in_one_patch() -> None:
    task = Task(5, 8, 0.0)
    images = draw(task, 100, [3])
    patches = images.x[0].norm(dim=-1) > 0
    assert (patches.sum(1) == 1).all()
    assert patches.any(0).all()
    found = images.y[0][:, None] * images.x[0].sum(1)
    torch.testing.assert_close(found, signal(task, 3).expand(100, 8))


def test_parts_of_a_seed_share_the_signal_only() -> None:
    task = Task(5, 8, 0.1)
    first, again, other = draw(task, 50, [3]), draw(task, 50, [3]), draw(task, 50, [3], part=1)
    assert first.x.equal(again.x)
    assert not first.x.equal(other.x)
    one, two = draw(task, 50, [3, 4]).x
    assert one.equal(first.x[0])
    assert not one.equal(two)
    assert first.first(20).x.equal(first.x[:, :20])


def test_the_threshold_is_odd_and_flat() -> None:
    z, b = torch.linspace(-3, 3, 601, dtype=torch.float64), torch.tensor(1.25)
    found = soft_threshold(z, b)
    torch.testing.assert_close(found, -soft_threshold(-z, b))
    assert not found[z.abs() <= 1.25].any()
    torch.testing.assert_close(found[z > 1.25], z[z > 1.25] - 1.25)
    torch.testing.assert_close(soft_threshold(z, torch.tensor(0.0)), z)


def test_each_network_is_the_next_larger_one_with_fewer_free_weights() -> None:
    task, seeds = Task(6, 5, 0.3), [0, 1]
    x = draw(task, 40, seeds).x.double()
    w = torch.randn(2, 3, 5, dtype=torch.float64)
    b = torch.tensor([[0.0, 0.1, 0.4]] * 2, dtype=torch.float64)
    tied = w[:, :, None].expand(2, 3, 6, 5)
    rows = torch.diag_embed(tied.movedim(2, -1)).permute(0, 1, 3, 4, 2)  # one block a row
    found = [outputs(kind, x, v, b) for kind, v in (("cnn", w), ("lcn", tied), ("fcn", rows))]
    assert found[0].shape == (2, 3, 40)
    assert rows.count_nonzero() == tied.numel()
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-12, rtol=0)


def rotation(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


K, D = 4, 5
WHOLE, PATCHES, ORDER = rotation(K * D, 0), [rotation(D, i) for i in range(K)], [2, 0, 3, 1]


def everywhere(v: torch.Tensor) -> torch.Tensor:
    """Any rotation of the image, (..., k, d)."""
    return (v.flatten(-2) @ WHOLE.T).unflatten(-1, (K, D))


def patch_by_patch(v: torch.Tensor) -> torch.Tensor:
    """Each patch rotated in its own way, then another order of the patches."""
    turned = torch.stack([v[..., t, :] @ PATCHES[t].T for t in range(K)], -2)
    return turned[..., ORDER, :]


def trained(
    kind: str, method: Method, change: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[Training, Images]:
    """Networks after 40 steps, from images and weights that were changed alike."""
    task, seeds = Task(K, D, 0.3), [5, 6]
    images = draw(task, 30, seeds)
    w = start(kind, task, seeds, len(method.rates)).double()
    changed = Images(change(images.x.double()), images.y.double())
    training = Training(kind, method, change(w))
    for _ in range(method.steps):
        training.step(changed)
    return training, changed


def difference(kind: str, method: Method, change: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """How far the solution of the changed problem is from the changed solution."""
    plain, _ = trained(kind, method, lambda v: v)
    other, images = trained(kind, method, change)
    assert all(v.isfinite().all() for v in (*plain.state(), *other.state()))
    expected = change(plain.state()[0])
    said = outputs(kind, images.x, expected, plain.state()[1])
    found = outputs(kind, images.x, *other.state())
    assert found.abs().max() > 0.1, "nothing was learned"
    apart = [other.state()[0] - expected, found - said]
    return max(float(v.detach().abs().max()) for v in apart)


@pytest.mark.parametrize(("kind", "change"), [("fcn", everywhere), ("lcn", patch_by_patch)])
def test_gradient_descent_is_equivariant_and_adam_is_not(
    kind: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    assert difference(kind, GD, change) < 1e-10
    assert difference(kind, ADAM, change) > 1e-3


def test_an_lcn_is_not_equivariant_to_what_mixes_patches() -> None:
    assert difference("lcn", GD, everywhere) > 1e-3


def test_thresholds_move_and_stay_positive() -> None:
    training, _ = trained("cnn", GD, lambda v: v)
    _, b = training.state()
    assert (b >= 0).all()
    assert b.any()


def test_a_threshold_that_would_be_negative_is_zero() -> None:
    images = draw(Task(4, 5, 0.0), 30, [1])  # without noise a threshold only loses signal
    training = Training("cnn", GD, start("cnn", Task(4, 5, 0.0), [1], 2))
    for _ in range(10):
        training.step(images)
    assert not training.state()[1].any()


def test_trainings_side_by_side_are_those_done_alone() -> None:
    task, seeds = Task(5, 6, 0.3), [1, 2]
    w = start("lcn", task, seeds, 2)
    images = draw(task, 20, seeds)
    both = Training("lcn", Method("gd", (0.5, 0.1), 0.3, 10), w)
    alone = Training("lcn", Method("gd", (0.1,), 0.3, 10), w[1:, :1])
    for _ in range(10):
        both.step(images)
        alone.step(Images(images.x[1:], images.y[1:]))
    torch.testing.assert_close(both.state()[0][1:, 1:], alone.state()[0])
    torch.testing.assert_close(both.state()[1][1:, 1:], alone.state()[1])


def test_a_cnn_learns_from_few_and_the_test_images_choose_nothing() -> None:
    task, seeds = Task(8, 10, 0.15), [1, 2]
    parts = [draw(task, n, seeds, part) for part, n in enumerate((100, 300, 500))]
    method = Method("adam", (0.1, 1e-6), 0.3, 100)
    found = learned("cnn", task, method, parts, seeds)
    assert min(found) > 0.95
    turned = [*parts[:2], Images(parts[2].x, -parts[2].y)]
    assert learned("cnn", task, method, turned, seeds) == pytest.approx([1 - a for a in found])
    assert accuracy("cnn", parts[2], *(torch.zeros(2, 1, 10), torch.zeros(2, 1))).sum() == 0


@pytest.mark.parametrize(
    ("accuracies", "needed"),
    [
        ([0.5, 0.6, 0.8, 0.9], 8 * 2**0.5),
        ([0.5, 0.7, 0.6, 0.9], 8.0),
        ([0.9, 0.9, 0.9, 0.9], 4.0),
        ([0.5, 0.5, 0.6, 0.6], math.inf),
    ],
)
def test_samples_are_interpolated_on_their_logarithm(
    accuracies: list[float], needed: float
) -> None:
    assert samples_needed([4, 8, 16, 32], accuracies, 0.7) == pytest.approx(needed)


def test_growth_is_a_power_with_an_interval() -> None:
    ks = [5, 10, 20, 40]
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 5))
    exact, low, high = dsd.growth(1.5 * np.log(ks)[:, None] + np.zeros((4, 5)), ks)
    assert (exact, low, high) == pytest.approx((1.5, 1.5, 1.5))
    power, low, high = dsd.growth(1.5 * np.log(ks)[:, None] + noise, ks)
    assert low < power < high
    assert 0.02 < high - low < 0.2
    _, lower, higher = dsd.growth(np.log(ks)[:, None] + 5 * noise, ks)
    assert higher - lower == pytest.approx(5 * (high - low))


def needs(**powers: float) -> dsd.Needs:
    """Samples of three networks that grow by these powers of k (and linearly in d)."""
    protocol = dsd.protocols(Setting(False, Path()))[0]
    found = dsd.Needs(protocol)
    noise = np.random.default_rng(1).uniform(0.95, 1.05, 5)
    for kind, (power, factor) in zip(
        dsd.KINDS, zip(powers.values(), (1, 3, 9), strict=True), strict=True
    ):
        for k, d in protocol.points:
            found.samples[kind, k, d] = list(factor * d * k**power * noise)
    return found


@pytest.mark.parametrize(
    ("cnn", "lcn", "fcn", "verdicts"),
    [
        (0.0, 1.0, 2.0, ["confirmed", "confirmed", "confirmed"]),
        (0.0, 0.1, 1.0, ["confirmed", "refuted", "confirmed"]),
        (0.0, 1.0, 1.0, ["confirmed", "confirmed", "refuted"]),
        (2.0, 1.0, 2.0, ["refuted", "refuted", "confirmed"]),
    ],
)
def test_verdicts_follow_the_rule(cnn: float, lcn: float, fcn: float, verdicts: list[str]) -> None:
    found = needs(cnn=cnn, lcn=lcn, fcn=fcn)
    assert [
        dsd._order(found, "c").verdict,
        dsd._ratio(found, "c", "lcn", "cnn", dsd.SLOPE).verdict,
        dsd._ratio(found, "c", "fcn", "lcn", dsd.FLAT).verdict,
    ] == verdicts
    assert dsd._grows_with_d(found).verdict == "confirmed"


def test_what_was_not_reached_decides_only_what_it_can() -> None:
    found = needs(cnn=0.0, lcn=1.0, fcn=2.0)
    found.samples["fcn", 40, 20][2] = math.inf
    assert dsd._order(found, "c").verdict == "confirmed"
    assert "not reached" in dsd._order(found, "c").why
    assert dsd._ratio(found, "c", "fcn", "lcn", dsd.FLAT).verdict == "not decided"
    assert found.facts()["fcn k=40 d=20"][2] is None
    found.samples["lcn", 40, 20][2] = math.inf
    assert dsd._order(found, "c").verdict == "not decided"
    found.samples["fcn", 10, 40][0] = math.inf
    assert dsd._grows_with_d(found).verdict == "not decided"


def test_the_plot_is_drawn_with_what_is_there(tmp_path: Path) -> None:
    found = needs(cnn=0.0, lcn=1.0, fcn=2.0)
    found.samples["fcn", 40, 20] = [math.inf] * 5
    dsd.draw_needs([found, found], tmp_path / "dsd.png")
    assert (tmp_path / "dsd.png").read_bytes()[:4] == b"\x89PNG"
