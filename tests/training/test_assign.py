"""Who learns which box: cases small enough to count by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sinet.training.assign import ALPHA, BETA, assign, detection_loss, distance_loss


def grid(side: int = 4, stride: int = 8) -> tuple[Tensor, Tensor]:
    """Positions of one level."""
    steps = (torch.arange(side) + 0.5) * stride
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y], -1).flatten(0, 1)
    return points, torch.full((len(points),), float(stride))


def rows(*boxes: tuple[float, ...]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6)


def test_the_best_positions_inside_learn_a_box() -> None:
    points, strides = grid()
    truth = (0.0, 0.0, 16.0, 16.0)  # holds the positions 0, 1, 4, 5
    corners = torch.tensor(truth).repeat(1, 16, 1)
    corners[0, 1] = torch.tensor([0, 0, 8, 16])  # overlap 1/2
    scores = torch.full((1, 16, 2), 0.5)
    scores[0, 4, 1] = 0.25
    found = assign(scores, corners, points, strides, rows((0, 1, *truth)), top=3)
    assert sorted(found.place.tolist()) == [0, 4, 5]  # position 1 overlaps too little
    quality = dict(zip(found.place.tolist(), found.quality.tolist(), strict=True))
    assert quality[0] == pytest.approx(1.0)  # the best fit gets the best overlap, 1
    assert quality[4] == pytest.approx(0.5**ALPHA)  # half the score, same overlap


def test_overlap_counts_by_its_power() -> None:
    points, strides = grid()
    corners = torch.tensor([0.0, 0, 16, 16]).repeat(1, 16, 1)
    corners[0, 0] = torch.tensor([0, 0, 16, 12])  # 3/4
    scores = torch.full((1, 16, 1), 0.5)
    found = assign(scores, corners, points, strides, rows((0, 0, 0, 0, 16, 16)))
    quality = dict(zip(found.place.tolist(), found.quality.tolist(), strict=True))
    assert quality[0] == pytest.approx(0.75**BETA, rel=1e-4)
    assert quality[5] == pytest.approx(1.0)


def test_a_disputed_position_goes_to_the_box_it_overlaps_most() -> None:
    points, strides = grid()
    first, second = (0, 0, 0, 0, 24, 24), (0, 0, 0, 0, 16, 16)
    corners = torch.tensor([0.0, 0, 16, 16]).repeat(1, 16, 1)
    found = assign(torch.full((1, 16, 1), 0.5), corners, points, strides, rows(first, second))
    owner = dict(zip(found.place.tolist(), found.box.tolist(), strict=True))
    assert len(owner) == len(found.place)  # each position once
    assert [owner[i] for i in (0, 1, 4, 5)] == [1] * 4
    assert {owner[i] for i in (2, 6, 8, 9, 10)} == {0}


def test_equal_boxes_share_nothing_twice() -> None:
    points, strides = grid()
    box = (0, 0, 0, 0, 16, 16)
    corners = torch.tensor([0.0, 0, 16, 16]).repeat(1, 16, 1)
    found = assign(torch.full((1, 16, 1), 0.5), corners, points, strides, rows(box, box))
    assert len(set(found.place.tolist())) == len(found.place) == 4


def test_a_box_smaller_than_a_step_has_a_position() -> None:
    points, strides = grid()
    corners = torch.tensor([0.0, 0, 16, 16]).repeat(1, 16, 1)
    found = assign(
        torch.full((1, 16, 1), 0.5), corners, points, strides, rows((0, 0, 9, 9, 10, 10))
    )
    assert 5 in found.place.tolist() or 0 in found.place.tolist()


def test_images_do_not_mix() -> None:
    points, strides = grid()
    corners = torch.tensor([0.0, 0, 16, 16]).repeat(3, 16, 1)
    targets = rows((2, 0, 0, 0, 16, 16), (0, 0, 16, 16, 32, 32))
    found = assign(torch.full((3, 16, 1), 0.5), corners, points, strides, targets)
    own = {(int(i), int(b)) for i, b in zip(found.image, found.box, strict=True)}
    assert own <= {(2, 0), (0, 1)}
    assert {p for p, b in zip(found.place.tolist(), found.box.tolist(), strict=True) if b == 1} == {
        10, 11, 14, 15
    }  # fmt: skip


def test_no_boxes_no_pairs_and_a_finite_loss() -> None:
    points, strides = grid()
    logits = torch.zeros(2, 16, 3, requires_grad=True)
    bins = torch.zeros(2, 16, 4, 16, requires_grad=True)
    corners = torch.zeros(2, 16, 4, requires_grad=True)
    loss = detection_loss(logits, bins, corners, points, strides, torch.zeros(0, 6))
    loss.backward()
    assert loss.item() == pytest.approx(2 * 16 * 3 * 0.693147, rel=1e-4)


def test_a_distance_between_two_bins_is_learned_by_both() -> None:
    bins = torch.full((1, 4, 16), -50.0)
    bins[..., 3], bins[..., 4] = torch.log(torch.tensor(0.75)), torch.log(torch.tensor(0.25))
    right = distance_loss(bins, torch.full((1, 4), 3.25))
    entropy = -(0.75 * torch.log(torch.tensor(0.75)) + 0.25 * torch.log(torch.tensor(0.25)))
    assert right.item() == pytest.approx(entropy.item(), abs=1e-5)
    assert distance_loss(bins, torch.full((1, 4), 3.75)).item() > right.item()
    assert distance_loss(bins, torch.full((1, 4), 99.0)).isfinite()
