"""What changes with the share of the training that is done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import tiny
import torch
from timm.layers import DropPath
from torch import nn

from sinet.errors import UsageError
from sinet.training.checkpoint import Interrupted, Keeper
from sinet.training.progress import Progress, Unfreezer
from sinet.training.recipe import Recipe


def at(callback: Any, step: int, task: Any = None) -> None:
    """Let a callback see the start of a step."""
    callback.on_train_batch_start(SimpleNamespace(global_step=step), task, None, step)


def rates(network: nn.Module) -> list[float]:
    return [m.drop_prob for m in network.modules() if isinstance(m, DropPath)]


def test_nasnet_drops_more_paths_the_longer_it_learns() -> None:
    network = timm.create_model("nasnet_test", drop_path_rate=0.4, num_classes=2)
    final = rates(network)
    told = Progress(network, Recipe(), 100)
    for step, share in ((0, 0.0), (25, 0.25), (100, 1.0)):
        at(told, step)
        assert rates(network) == pytest.approx([rate * share for rate in final])
    assert max(final) == pytest.approx(0.4)


def test_any_drop_path_grows_where_the_recipe_says_so() -> None:
    network = timm.create_model("sinet_test", drop_path_rate=0.4, num_classes=2)
    final = rates(network)
    assert max(final) > 0
    at(Progress(network, Recipe(drop_path=0.4), 100), 10)
    assert rates(network) == final
    ramp = Progress(network, Recipe(drop_path=0.4, drop_path_ramp=0.5), 100)
    for step, share in ((0, 0.0), (25, 0.5), (50, 1.0), (90, 1.0)):
        at(ramp, step)
        assert rates(network) == pytest.approx([rate * share for rate in final])


def test_the_loop_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    class Told(nn.Identity):
        def set_progress(self, share: float) -> None:
            shares.append(share)

    made = tiny.TinyNet.__init__

    def with_one(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.drop.told = Told()

    monkeypatch.setattr(tiny.TinyNet, "__init__", with_one)
    tiny.run(tmp_path, tiny.QUICK.replace(epochs=1))
    assert shares == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


def test_groups_join_from_the_classifier_backwards() -> None:
    network = tiny.TinyNet()  # stem 0, body 1, head 2
    free = Unfreezer(network, Recipe(unfreeze=0.5), 100)
    assert [free.first(step) for step in (0, 24, 25, 49, 50, 99)] == [2, 2, 1, 1, 0, 0]
    kept = Unfreezer(network, Recipe(unfreeze=0.5, freeze=1), 100)
    assert [kept.first(step) for step in (0, 49, 50, 99)] == [2, 2, 1, 1]


def test_what_has_not_joined_stays_and_so_do_its_statistics(tmp_path: Path) -> None:
    start = tiny.run(tmp_path / "start")
    before = tiny.weights(start)
    seen: dict[int, set[str]] = {}
    ended = Keeper.on_train_batch_end

    def look(self: Keeper, trainer: Any, task: Any, *rest: Any, **more: Any) -> None:
        now = task.network.state_dict()
        seen[trainer.global_step] = {k for k in now if not torch.equal(now[k], before[k])}
        ended(self, trainer, task, *rest, **more)

    recipe = tiny.QUICK.replace(unfreeze=0.8)  # of 15 steps: 12, so the body joins at step 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", look)
        tiny.run(tmp_path / "run", recipe, init=tmp_path / "start")
    assert seen[6] == {"head.weight", "head.bias"}
    assert {name.split(".")[0] for name in seen[12]} == {"body", "head"}
    assert {name.split(".")[0] for name in seen[14]} == {"stem", "norm", "scale", "body", "head"}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_it_resumes_bit_for_bit(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.QUICK.replace(unfreeze=0.8, ema=0.9, dropout=0.2, optimizer=optimizer, lr=0.005)
    whole = tiny.run(tmp_path / "whole", recipe)
    ended = Keeper.on_train_batch_end

    def stop(self: Keeper, trainer: Any, *rest: Any, **more: Any) -> None:
        self.asked = self.asked or trainer.global_step == 7
        ended(self, trainer, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", stop)
        with pytest.raises(Interrupted):
            tiny.run(tmp_path / "cut", recipe)
    assert tiny.identical(whole, tiny.run(tmp_path / "cut", recipe))


def test_what_cannot_be_unfrozen_is_refused() -> None:
    with pytest.raises(UsageError, match="unfreeze: Linear has no layer groups"):
        Unfreezer(nn.Linear(2, 2), Recipe(unfreeze=0.5), 10)
    free = Unfreezer(tiny.TinyNet(), Recipe(unfreeze=0.5), 10)
    several: Any = SimpleNamespace(world_size=2)
    with pytest.raises(UsageError, match="one process, not in 2"):
        free.setup(several, None, "fit")
    with pytest.raises(UsageError, match="freeze=-1 keeps"):
        Recipe(unfreeze=0.5, freeze=-1)
