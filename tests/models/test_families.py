"""Families without a test file of their own get the battery; the table knows every variant."""

from __future__ import annotations

from pathlib import Path

from .tester import TABLE, ModelTester, families

HERE = Path(__file__).parent

for _module in families():
    if not (HERE / f"test_{_module}.py").exists():
        _name = f"Test_{_module}"
        globals()[_name] = type(_name, (ModelTester,), {"module": _module})


def test_table_lists_exactly_the_registered_variants() -> None:
    registered = {name for names in families().values() for name in names}
    assert registered == set(TABLE)


def test_every_variant_belongs_to_one_family() -> None:
    names = [name for variants in families().values() for name in variants]
    assert len(names) == len(set(names)) >= 10
