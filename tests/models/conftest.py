"""Runs the tester's checks over the variants of the family."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.cls is None or not hasattr(metafunc.cls, "small_variants"):
        return
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", metafunc.cls.variants())
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", metafunc.cls.small_variants())


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
