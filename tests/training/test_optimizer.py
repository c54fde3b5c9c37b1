from __future__ import annotations

import pytest
import timm
import torch
from tiny import TinyNet
from torch import nn

from sinet.errors import UsageError
from sinet.training.optimizer import (
    build_optimizer,
    build_schedule,
    fixed_norms,
    freeze,
    image_size,
    lr_factor,
)
from sinet.training.recipe import Recipe, named


def decays(network: nn.Module, recipe: Recipe) -> dict[str, float]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = build_optimizer(network, recipe).param_groups
    return {names[p]: group["weight_decay"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_only_weights_decay(optimizer: str) -> None:
    found = decays(TinyNet(), Recipe(optimizer=optimizer, weight_decay=0.05))
    assert {name for name, decay in found.items() if decay} == {
        "stem.weight", "body.weight", "head.weight"
    }  # fmt: skip
    assert set(found.values()) == {0.0, 0.05}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_every_optimizer_lowers_the_loss(optimizer: str) -> None:
    torch.manual_seed(0)
    network, inputs, targets = TinyNet(3), torch.randn(12, 3, 16, 16), torch.arange(12) % 3
    rate = 0.1 if optimizer == "sgd" else 0.01
    learn = build_optimizer(network, Recipe(optimizer=optimizer, lr=rate))
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(inputs), targets)
        learn.zero_grad()
        loss.backward()
        learn.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_lower_layers_learn_more_slowly() -> None:
    network = TinyNet()
    recipe = Recipe(lr=1.0, layer_decay=0.5, warmup=0.0)
    optimizer = build_optimizer(network, recipe)
    build_schedule(optimizer, recipe, 10)
    names = {parameter: name for name, parameter in network.named_parameters()}
    rates = {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["head.weight"] == 1.0
    assert rates["stem.weight"] < rates["body.weight"] < rates["head.weight"]


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.1),  # the first of ten warm-up steps already moves
        ("cosine", 9, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.5),
        ("cosine", 100, 0.0),
        ("linear", 55, 0.5),
        ("linear", 100, 0.0),
        ("step", 54, 1.0),
        ("step", 55, 0.1),
        ("step", 78, 0.01),
    ],
)
def test_schedule(schedule: str, step: int, expected: float) -> None:
    factor = lr_factor(Recipe(schedule=schedule, warmup=0.1), 100)
    assert factor(step) == pytest.approx(expected, abs=1e-9)


def test_the_schedule_moves_the_optimizer() -> None:
    recipe = Recipe(lr=2.0, warmup=0.5, schedule="linear")
    optimizer = build_optimizer(TinyNet(), recipe)
    schedule = build_schedule(optimizer, recipe, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("size", "start", "seen"),
    [
        (224, 0.5, [128, 128, 160, 192, 224]),
        (32, 0.5, [16, 24, 24, 32]),
        (32, 1.0, [32]),
        (28, 0.5, [16, 24, 28]),
    ],
)
def test_progressive_resolution_grows_in_steps_to_the_full_size(
    size: int, start: float, seen: list[int]
) -> None:
    recipe = Recipe(progressive=start)
    sizes = [image_size(recipe, size, step / 100) for step in range(100)]
    assert sizes == sorted(sizes)
    assert list(dict.fromkeys(sizes)) == list(dict.fromkeys(seen))
    assert set(sizes[75:]) == {size}


def test_freezing_keeps_groups_and_their_norms() -> None:
    network = TinyNet()
    freeze(network, 1)
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learned == {"body.weight", "body.bias", "head.weight", "head.bias"}
    assert fixed_norms(network, every=False) == [network.norm]


def test_minus_one_leaves_only_the_classifier() -> None:
    network = TinyNet()
    freeze(network, -1)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        "head.weight", "head.bias"
    }  # fmt: skip


def test_freezing_everything_or_the_nameless_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves nothing to learn; use at most 2"):
        freeze(TinyNet(), 3)
    with pytest.raises(UsageError, match="has no layer groups"):
        freeze(nn.Linear(2, 2), 1)
    headless = timm.create_model("test_efficientnet", num_classes=0)
    for nameless in (nn.Linear(2, 2), headless):
        with pytest.raises(UsageError, match="has no classifier"):
            freeze(nameless, -1)


def test_both_classifiers_of_a_distilled_network_learn() -> None:
    network = timm.create_model("lsnet_t_distill", num_classes=3)
    freeze(network, -1)
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learned == {f"{head}.fc.{leaf}" for head in ("head", "head_dist")
                       for leaf in ("weight", "bias")}  # fmt: skip


def test_what_learns_beside_the_network_is_in_the_optimizer() -> None:
    beside, recipe = nn.Linear(2, 2), Recipe(lr=1.0, layer_decay=0.5, weight_decay=0.1)
    optimizer = build_optimizer(TinyNet(), recipe, beside.parameters())
    build_schedule(optimizer, recipe, 10)
    last = optimizer.param_groups[-1]
    assert last["params"] == list(beside.parameters())
    assert last["initial_lr"] == 1.0
    assert last["weight_decay"] == 0


def test_norms_are_fixed_on_request_only() -> None:
    network = TinyNet()
    assert fixed_norms(network, every=False) == []
    assert fixed_norms(network, every=True) == [network.norm]


@pytest.mark.parametrize("name", named())
def test_every_named_recipe_builds_an_optimizer(name: str) -> None:
    recipe = Recipe.from_yaml(name)
    network = timm.create_model("test_efficientnet", num_classes=2)
    freeze(network, recipe.freeze)
    optimizer = build_optimizer(network, recipe)
    build_schedule(optimizer, recipe, 10)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == sum(p.requires_grad for p in network.parameters()) > 0
