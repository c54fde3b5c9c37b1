"""Every reference case: the authors' names load, and the authors' numbers come out.

A case in tests/golden says whose code was recorded and how it was built; `build(meta)` of
tests/reference/<slug>.py makes ours of it: an object with `load(state_dict)`, which takes the
authors' parameter names, and `run(*inputs)`, which returns the outputs in the record's order.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from reference.golden import Case

TESTS = Path(__file__).parents[1]
CASES = sorted((TESTS / "golden").glob("*.json.gz"))
TOLERANCE = 1e-6
ROUNDED = {"guidance_deepfcn_rn18": 5e-6}
"""Records that hold fewer digits. In the last layers of this FCN images differ by 4e-6 of their
size, and the authors centre products of them, which rounds away all digits but six: in extended
precision ours are right to 1e-11."""


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name.removesuffix(".json.gz"))
def test_reference_case(path: Path) -> None:
    case = Case.load(path)
    slug = case.meta["name"].split("_")[0]
    runner = importlib.import_module(f"reference.{slug}").build(case.meta)
    runner.load(case.state_dict())
    tolerance = ROUNDED.get(case.meta["name"], TOLERANCE)
    with torch.inference_mode():
        worst = case.check(runner.run(*case.inputs()), rtol=tolerance)
    assert worst <= tolerance


def test_a_wrong_output_is_seen() -> None:
    case = Case.load(CASES[0])
    wrong = [torch.zeros(spec["shape"], dtype=case.dtype) for spec in case.outputs_spec]
    with pytest.raises(AssertionError, match="largest error"):
        case.check(wrong)


def test_every_reference_is_used() -> None:
    builders = {p.stem for p in (TESTS / "reference").glob("*.py")} - {"__init__", "golden"}
    # FMViT's code was never published: ours is a reconstruction, nothing to hold it against
    assert builders - {path.name.split("_")[0] for path in CASES} == {"fmvit"}
