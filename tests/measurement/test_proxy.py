"""Equal recipes, trained side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from sinet.measurement.proxy import side_by_side


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many there are."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def note(folder: Path, name: str) -> None:
    """Write who did it, with how many threads."""
    if name == "bad":
        raise RuntimeError("cannot")
    (folder / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def test_every_job_is_done_once_on_one_thread(
    tmp_path: Path, threads: Callable[[int], None]
) -> None:
    threads(3)
    side_by_side([partial(note, tmp_path, name) for name in ("a", "b", "bad", "c", "d")])
    done = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert set(done) == {"a", "b", "c", "d"}
    assert {count for _, count in done.values()} == {"1"}
    assert str(os.getpid()) not in {process for process, _ in done.values()}
    assert torch.get_num_threads() == 3


def test_one_thread_leaves_the_work_to_the_caller(
    tmp_path: Path, threads: Callable[[int], None]
) -> None:
    threads(1)
    side_by_side([partial(note, tmp_path, "a"), partial(note, tmp_path, "b")])
    assert not list(tmp_path.iterdir())
