"""The folder that is handed over: the model, what it is, and thirty lines that run it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from sinet.deployment.engines._onnx import read_metadata
from sinet.deployment.metadata import Metadata
from sinet.files import atomic_path, write_json, write_text
from sinet.tasks.signatures import signature

LIMITATIONS = (
    "It knows its classes and nothing else; what is none of them is taken for one or for nothing.",
    "The accuracy holds for images like those it was measured on; check it on your own.",
    "The latency holds for the machine above; measure it on yours with `sinet bench`.",
)


@dataclass(frozen=True)
class Card:
    """What was measured and where it came from; the rest of the card is read from the file."""

    name: str
    """Title of the card."""
    data: str
    """The training data in words: name, number of images and classes."""
    metric_name: str
    """Such as `val/top1`."""
    metric: float
    """Of the file that ships, accuracies and shares as 0..1."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    """Upper end."""
    images: int
    """Number of images that it was measured on."""
    latency: str
    """Median with quartiles, batch, threads and engine."""
    hardware: str
    """The machine, as `measurement.machine` describes it."""
    init: str = "scratch"
    """What training started from."""
    command: str = ""
    """What repeats the run."""
    limitations: tuple[str, ...] = LIMITATIONS
    """What a user should not expect."""


def ship(folder: str | Path, model: str | Path, card: Card) -> Path:
    """Write the ship folder: model.onnx, labels.txt, card.json, README.md and run.py.

    Args:
        folder: where to write; files of an earlier ship are replaced.
        model: an assembled ONNX file.
        card: what was measured.

    Raises:
        UsageError: `model` is damaged or not SiNet's.
    """
    folder, model = Path(folder), Path(model)
    facts = read_metadata(model)
    with atomic_path(folder / "model.onnx") as temporary:
        temporary.write_bytes(model.read_bytes())
    write_text(folder / "labels.txt", "".join(f"{_one_line(name)}\n" for name in facts.classes))
    write_json(folder / "card.json", card_dict(card, facts))
    write_text(folder / "README.md", _readme(card, facts))
    write_text(folder / "run.py", _template(f"run_{facts.task}.py"))
    return folder


def card_dict(card: Card, facts: Metadata) -> dict[str, Any]:
    """All of the card as plain values: what was measured and what the file says about itself."""
    return {**facts.to_dict(), **asdict(card)}


def _readme(card: Card, facts: Metadata) -> str:
    """The card as Markdown, with the header that model hubs read."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    known = re.fullmatch(r"[A-Za-z0-9.+-]+", facts.licence) and facts.licence != "unstated"
    return environment.from_string(_template("README.md.j2")).render(
        card=card,
        facts=facts,
        task=signature(facts),
        short_side=facts.preprocess.short_side,
        hub_licence=facts.licence.lower() if known else "other",
    )


def _template(name: str) -> str:
    return (files("sinet.deployment") / "templates" / name).read_text(encoding="utf-8")


def _one_line(name: str) -> str:
    return " ".join(name.split())
