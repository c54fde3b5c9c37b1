"""Runs the tester's checks over the variants of the family."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.cls is None or not hasattr(metafunc.cls, "small_variants"):
        return
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", metafunc.cls.variants())
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", metafunc.cls.small_variants())
