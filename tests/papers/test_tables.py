"""The article's protocol on tables: folds, networks in one batch, its statistic."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sinet.models.tabular import KINDS, TableNet
from sinet.papers._tables import (
    Rows,
    _from_cells,
    accuracies,
    average_ranks,
    folds,
    train_together,
    wilcoxon,
)
from sinet.papers.snn import ranked


def blobs(count: int = 120) -> Rows:
    rng = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = rng.normal(0, 1, (count, 4)) + 4 * np.eye(3, 4)[y]
    return Rows(x.astype(np.float32), y.astype(np.int64))


def test_folds_share_no_row_and_keep_the_classes() -> None:
    rows = blobs()
    rows.x[:, 0] = np.arange(len(rows.y))  # a row's number
    cut = folds(rows)
    mean, std = (rows.x[:, 0].astype(np.float64).mean(), rows.x[:, 0].astype(np.float64).std())
    assert (mean, std) != (0, 1)
    numbers = []
    for fold in cut:
        parts = [part[0][:, 0].tolist() for part in (fold.train, fold.val, fold.test)]
        assert len(set().union(*map(set, parts))) == sum(map(len, parts))
        assert fold.train[0].mean(0).abs().max() < 1e-5
        assert torch.bincount(fold.test[1]).tolist() == [13, 13, 14] or len(fold.test[1]) == 40
        numbers.append(len(fold.train[1]))
    assert len(set(numbers)) == 1
    assert sum(len(fold.test[1]) for fold in cut) == 120


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_of_networks_learns_as_each_alone(kind: str) -> None:
    rows, rates = blobs(70), [0.01, 0.1]
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    torch.manual_seed(0)
    nets = [TableNet(kind, 3, 4, depth=3, width=8) for _ in rates]
    alone = copy.deepcopy(nets)
    train_together(nets, [(x, y)] * 2, rates, epochs=2)
    for net, rate, own in zip(alone, rates, nets, strict=True):
        train_together([net], [(x, y)], [rate], epochs=2)
        optimised = dict(net.named_parameters())
        for name, value in own.named_parameters():
            torch.testing.assert_close(value, optimised[name], atol=1e-5, rtol=1e-4)
    assert not torch.equal(nets[0].fc.weight, nets[1].fc.weight)


def test_a_step_is_that_of_sgd() -> None:
    rows = blobs(30)
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    torch.manual_seed(0)
    net = TableNet("batchnorm", 3, 4, depth=2, width=8)
    twin = copy.deepcopy(net).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
    train_together([net], [(x, y)], [0.1], epochs=3)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_networks_learn_what_is_easy() -> None:
    rows = blobs()
    assert min(accuracies("snn", 4, folds(rows), rows.classes, epochs=15)) > 0.9


def test_text_is_spread_and_classes_are_numbered() -> None:
    rows = _from_cells("t", [["1.5", " a", "yes"], ["2.5", "b", "no"], ["7.5", "a", "yes"]])
    assert rows.x.shape == (3, 3)
    assert rows.y.tolist() == [1, 0, 1]


def test_ranks_and_p_by_hand() -> None:
    ranks = average_ranks({"a": [3, 2, 2], "b": [2, 2, 1], "c": [1, 1, 3]})
    assert ranks == pytest.approx({"a": 1.5, "b": 2.1666667, "c": 2.3333333})
    assert wilcoxon([1, 2, 3], [1, 2, 3]) == 1
    assert wilcoxon(list(range(1, 21)), [0] * 20) < 0.001


@pytest.mark.parametrize(
    ("better", "place", "verdict"),
    [(0, 1, "confirmed"), (0, 3, "not decided"), (1, 1, "not decided"), (2, 1, "refuted")],
)
def test_what_ranks_decide(better: int, place: int, verdict: str) -> None:
    assert ranked(better, place) == verdict
