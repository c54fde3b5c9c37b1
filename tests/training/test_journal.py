from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from sinet.training.journal import as_csv


def test_without_a_terminal_each_epoch_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.train(
        tiny.SPEC, tiny.dataset(), tiny.QUICK, tmp_path, preprocess=tiny.PREPROCESS,
        task=tiny.Classify, device="cpu",
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line[:11] for line in lines] == ["epoch 1/3  ", "epoch 2/3  ", "epoch 3/3  "]
    assert all("train/loss" in line and "val/top1" in line for line in lines)


def test_quiet_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.run(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_table_leaves_empty_what_was_not_measured() -> None:
    rows = [
        {"epoch": 1.0, "step": 5, "lr": 0.1, "train/loss": 2.0, "seconds": 1.5},
        {"epoch": 2.0, "step": 10, "lr": 0.0, "train/loss": 1.0, "val/top1": 0.5, "seconds": 3.0},
    ]
    assert as_csv(rows).splitlines() == [
        "epoch,step,lr,train/loss,val/top1,seconds",
        "1.0,5,0.1,2.0,,1.5",
        "2.0,10,0.0,1.0,0.5,3.0",
    ]
