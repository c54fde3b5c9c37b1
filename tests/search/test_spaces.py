from __future__ import annotations

import random

import pytest
import timm
import torch

from sinet.errors import UsageError
from sinet.measurement.cost import cost
from sinet.search.spaces import HAND_SET, SiNetSpace, check_space


def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def drawn(space: SiNetSpace, seed: int) -> dict[str, int | str]:
    draw = random.Random(seed)
    return {name: draw.choice(choice) for name, choice in space.choices.items()}


@pytest.mark.parametrize("name", HAND_SET)
def test_hand_set_networks_are_points(name: str) -> None:
    space = SiNetSpace(224)
    point = space.hand_set(name)
    assert all(point[key] in choice for key, choice in space.choices.items())
    assert point.keys() == space.choices.keys()
    with torch.device("meta"):
        ours, theirs = space.spec(point).create(1000), timm.create_model(name)
    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize("size", [16, 32, 64, 100, 640])
def test_every_point_is_a_network(size: int) -> None:
    space = SiNetSpace(size)
    for seed in range(5):
        spec = space.spec(drawn(space, seed))
        with torch.device("meta"):
            network = spec.create(10)
            assert network(torch.zeros(2, 3, spec.size, spec.size)).shape == (2, 10)
    assert min(space.sizes) <= size or size < 24
    assert max(space.sizes) <= 224


@pytest.mark.parametrize("size", [32, 224])
def test_the_smallest_is_the_smallest(size: int) -> None:
    space = SiNetSpace(size)
    points = [space.smallest(), *(drawn(space, seed) for seed in range(12))]
    with torch.device("meta"):
        macs = [cost(s.create(10), s.size).macs for s in map(space.spec, points)]
    assert macs[0] == min(macs)


def test_reach_of_attention() -> None:
    space = SiNetSpace(224)
    point = {**space.hand_set("sinet_small"), "reach_3": "sparse", "reach_4": "window"}
    options = space.spec({**point, "attention_4": 6, "depth_4": 2}).kwargs
    assert (options["windows"], options["sparse"]) == ([0, 0, 7, 7], [False, False, True, False])
    assert options["attention"] == [0, 0, 1, 2]


def test_unknown_space() -> None:
    with pytest.raises(UsageError, match="did you mean 'nasnet'"):
        check_space("nasnets")
