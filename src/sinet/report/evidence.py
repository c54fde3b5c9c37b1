"""What the shipped file said, for the report: pictures of its worst and of usual answers.

Classes have their own file, `predictions.npz`, since their confusions can be counted; every other
task leaves `evidence/`: `evidence.json` and one picture an input, truth and answer side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sinet.data.dataset import Split
from sinet.deployment.predictor import Predictor
from sinet.files import atomic_path, read_json, write_json
from sinet.measurement.verify import Verdict
from sinet.report.predictions import save_predictions
from sinet.tasks.signatures import Signature
from sinet.tasks.signatures.classify import ClassScorer

WORST, USUAL = 8, 4
HEIGHT = 240  # pixels


@dataclass(frozen=True)
class Shown:
    """One input: its picture, its name and how well it was answered."""

    file: str
    name: str
    quality: float
    usual: bool


@dataclass(frozen=True)
class Evidence:
    """Rows of the classes, and the pictures in their folder."""

    classes: list[dict[str, Any]]
    pictures: list[Shown]
    folder: Path


def save_evidence(run: Path, task: Signature, split: Split, verdict: Verdict, file: Path) -> None:
    """Write what the report shows of a file's answers.

    Args:
        run: the run folder.
        task: of the file.
        split: what it was verified on.
        verdict: of the verification.
        file: the one that ships.
    """
    scorer, reader = verdict.scorer, task.input
    if isinstance(scorer, ClassScorer):
        used = verdict.used
        save_predictions(
            run,
            [split.names[i] for i in used],
            scorer.labels,
            scorer.probability,
            lambda i: reader.picture(reader.load(split, used[i])),
        )
        return
    quality = scorer.per_input()
    ranked = np.argsort(quality, kind="stable")
    worst = ranked[:WORST]
    usual = ranked[len(ranked) // 2 :][:USUAL]
    predictor, pictures = Predictor(file), []
    for place, index in enumerate([*worst, *usual]):
        i = verdict.used[int(index)]
        name = f"{place:02d}.jpg"
        picture = side_by_side(task, predictor, split, i)
        with atomic_path(run / "evidence" / name) as temporary:
            picture.save(temporary, format="JPEG", quality=88)
        shown = Shown(name, split.names[i], float(quality[index]), place >= len(worst))
        pictures.append(vars(shown))
    rows = {"classes": scorer.per_class(), "pictures": pictures}
    write_json(run / "evidence" / "evidence.json", rows)


def side_by_side(task: Signature, predictor: Predictor, split: Split, i: int) -> Image.Image:
    """Truth on the left, answer on the right."""
    sample = task.input.load(split, i)
    found = predictor.run(task.input.stack([sample]))
    outputs = {name: value[0] for name, value in found.items()}
    image = task.input.picture(sample)
    truth = task.truth_result(split.names[i], task.truth(split, i)).draw(image)
    answer = task.result(split.names[i], outputs).draw(image)
    high = min(HEIGHT, truth.height) if truth.height > 96 else 96
    wide = round(truth.width * high / truth.height)
    both = Image.new("RGB", (2 * wide + 4, high), "white")
    both.paste(truth.resize((wide, high)), (0, 0))
    both.paste(answer.resize((wide, high)), (wide + 4, 0))
    return both


def load_evidence(path: Path) -> Evidence:
    """Read `evidence.json`."""
    stored = read_json(path)
    pictures = [Shown(**row) for row in stored["pictures"]]
    return Evidence(stored["classes"], pictures, path.parent)
