"""Every family has its test file, every registered name its published figures."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from .tester import ModelTester, families

HERE = Path(__file__).parent


def battery_of(family: str) -> type[ModelTester]:
    module = importlib.import_module(f"{__package__}.test_{family}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ModelTester) and value is not ModelTester
    )
    return found


@pytest.mark.parametrize("family", sorted(families()))
def test_figures_list_exactly_the_registered_names(family: str) -> None:
    tester = battery_of(family)
    assert tester.module == family
    assert sorted(tester.figures) == sorted(families()[family])


def test_every_variant_belongs_to_one_family() -> None:
    names = [name for variants in families().values() for name in variants]
    assert len(names) == len(set(names)) >= 10
