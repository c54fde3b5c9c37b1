"""The road: inspect, candidates, train, shrink and export, verify, report; one run, one folder.

Each step is a function of the run and of what the step before it made. What a stopped run has
done already (timed candidates, finished trials, checkpoints) is not done again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from sinet.errors import unknown
from sinet.road.choose import inspect, time_models, train_best
from sinet.road.config import FitConfig
from sinet.road.finish import hand_over, shrink_and_verify
from sinet.road.run import Run
from sinet.road.teach import train_teachers


def fit(
    data: str | Path,
    budget: str = "",
    *,
    dry_run: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Path:
    """From images and a budget to a model that ships, with its report.

    Args:
        data: folder, file or archive of images.
        budget: limits of the shipped file, such as "10ms" or "30fps,4MB"; empty = none.
        dry_run: stop after the table of candidates.
        console: where to say what happens; standard output if None.
        **options: the other fields of `FitConfig`, such as `minutes=30`.

    Returns:
        The run folder: `model.onnx`, `ship/`, `report.html` and all that they were made from.

    Raises:
        DataError: the images cannot be used.
        UsageError: an option makes no sense, or the run folder holds another run.
        BudgetError: nothing keeps the budget; the report says what comes nearest.
        GateError: the exported file disagrees with the trained model.
    """
    for name in options:
        if name not in FitConfig.__dataclass_fields__:
            raise unknown("option of fit", name, FitConfig.__dataclass_fields__)
    config = FitConfig(str(data), budget, **options)
    run = Run(config, console)
    with run.reported():
        images = inspect(run)
        candidates = time_models(run, images)
        if dry_run:
            return run.folder
        spent = train_teachers(run, images)
        trained = train_best(run, images, candidates, config.minutes - spent)
        file, verdict = shrink_and_verify(run, images, trained)
        hand_over(run, images, trained, file, verdict)
    return run.folder
