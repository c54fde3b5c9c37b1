"""Every family has its test file, every registered name its published figures."""

from __future__ import annotations

import importlib
import inspect

import pytest

from .tester import SMALL, ModelTester, families


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


def checks(tester: type[ModelTester], runs_over: str) -> set[str]:
    """The tests of a battery that run once for each `variant`, or for each small `name`."""
    found = inspect.getmembers(tester, inspect.isfunction)
    tests = {name: test for name, test in found if name.startswith("test_")}
    return {name for name, test in tests.items() if runs_over in inspect.signature(test).parameters}


@pytest.mark.parametrize("family", sorted(families()))
def test_no_family_leaves_a_check_or_a_variant_out(family: str) -> None:
    """Overriding is for families whose networks need another check, not fewer."""
    tester, names = battery_of(family), set(families()[family])
    assert checks(tester, "variant") >= checks(ModelTester, "variant")
    assert checks(tester, "name") >= checks(ModelTester, "name")
    assert set(tester.variants()) == names
    assert set(tester.small_variants()) == {n for n in names if tester.figures[n][0] < SMALL}
    assert tester.no_drop_path.keys() <= names
    assert all(tester.no_drop_path.values()), "a reason each"


def test_the_battery_counts_its_checks() -> None:
    """A renamed argument or method would silently take a check away from every family."""
    assert len(checks(ModelTester, "variant")) == 6
    assert len(checks(ModelTester, "name")) == 24


def test_every_variant_belongs_to_one_family() -> None:
    names = [name for variants in families().values() for name in variants]
    assert len(names) == len(set(names)) >= 10
