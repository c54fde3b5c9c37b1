"""A published idea as this library holds it: its card, and a reproduction of its claims.

Adding a paper is adding one file to this folder with a `CARD` and a function
`reproduce(setting) -> list[Finding]`; `sinet papers` and `sinet reproduce` find it.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, Protocol

import sinet.papers
from sinet.errors import unknown
from sinet.files import read_json, write_json
from sinet.measurement.latency import default_threads
from sinet.measurement.machine import machine
from sinet.measurement.results import own_command, results_dir
from sinet.training.trainer import accelerator_for

Outcome = Literal["confirmed", "refuted", "not decided"]


@dataclass(frozen=True)
class Published:
    """What a paper or its authors' repository prints about a network, in the digits printed.

    A figure that neither prints is None: none is made up from our own counts.

    Attributes:
        params: millions of parameters, `28` for "28 M" and `28.0` for "28.0 M".
        macs: thousands of millions of multiply-adds for an image (most papers call them FLOPs).
        top1: per cent of ImageNet-1K's images recognized, unless the card's `caveat` says of what.
        size: side of the images of `macs` and `top1`, pixels; the network's own if None.
    """

    params: float | None
    macs: float | None
    top1: float | None = None
    size: int | None = None


@dataclass(frozen=True)
class Card:
    """What there is to know about a paper.

    Attributes:
        slug: short name; also the name of its file here.
        title: as published.
        authors: as published.
        year: of publication; None where the source does not say.
        venue: where it appeared.
        url: where it can be read; "" where it is not on the web.
        licence: of the authors' code; what ours is based on if there is none.
        idea: in our own words.
        equations: those that define it, one a line.
        claims: what it says it achieves, each checkable.
        models: registered models that come of it.
        parity: how far our implementation was checked against the authors'.
        published: name of a model -> what the paper prints about it.
        caveat: what to know before comparing `published` with our counts; "" if nothing.
    """

    slug: str
    title: str
    authors: str
    year: int | None
    venue: str
    url: str
    licence: str
    idea: str
    equations: tuple[str, ...]
    claims: tuple[str, ...]
    models: tuple[str, ...]
    parity: str
    published: Mapping[str, Published] = field(default_factory=dict)
    caveat: str = ""


@dataclass(frozen=True)
class Finding:
    """One claim, measured.

    Attributes:
        claim: what was tested.
        paper: what the paper says, a figure where it gives one.
        measured: numbers by name, units in the names.
        verdict: "confirmed", "refuted" or "not decided".
        why: the verdict in words.
    """

    claim: str
    paper: str
    measured: Mapping[str, Any]
    verdict: Outcome
    why: str


@dataclass(frozen=True)
class Reproduction:
    """All findings about one paper, with what they were measured on."""

    slug: str
    title: str
    verdict: Outcome
    findings: Sequence[Finding]
    quick: bool
    seeds: Sequence[int]
    hardware: str
    threads: int
    versions: Mapping[str, str]
    minutes: float
    """Of this call and of those that it went on from."""
    command: str
    device: str = "cpu"
    date: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for docs/results/reproductions."""
        return asdict(self)


@dataclass(frozen=True)
class Setting:
    """Where, on what and how thoroughly claims are measured.

    Attributes:
        quick: about a minute instead of about ten, to see that it runs; decides little.
        work: folder that keeps trainings, so that a second call goes on.
        data: images for accuracy claims; the bundled ones if None.
        device: "cpu", or "cuda" for the larger experiment where a paper has one.
    """

    quick: bool
    work: Path
    data: Path | None = None
    device: str = "cpu"


class Paper(Protocol):
    """A file of this folder."""

    CARD: Card
    SEEDS: tuple[int, ...]

    def reproduce(self, setting: Setting) -> list[Finding]:
        """Measure the claims."""
        ...


def papers() -> dict[str, Paper]:
    """Every paper of this folder by slug, in alphabetical order."""
    names = (m.name for m in pkgutil.iter_modules(sinet.papers.__path__))
    found: dict[str, Paper] = {}
    for name in sorted(n for n in names if n != "base" and not n.startswith("_")):
        module: Any = importlib.import_module(f"sinet.papers.{name}")
        found[module.CARD.slug] = module
    return found


def paper(slug: str) -> Paper:
    """One paper.

    Raises:
        UsageError: no such paper; the nearest name is offered.
    """
    known = papers()
    if slug not in known:
        raise unknown("paper", slug, known)
    return known[slug]


def overall(findings: Sequence[Finding]) -> Outcome:
    """Refuted if any claim is, confirmed if all are, else not decided."""
    verdicts = {f.verdict for f in findings}
    if "refuted" in verdicts:
        return "refuted"
    return "confirmed" if verdicts == {"confirmed"} else "not decided"


def judged(low: float, high: float) -> Outcome:
    """The verdict on "a gain of at least zero" from the interval of the measured gain."""
    if low >= 0:
        return "confirmed"
    return "refuted" if high < 0 else "not decided"


def run_reproduction(
    slug: str,
    *,
    quick: bool = False,
    data: Path | None = None,
    device: str = "cpu",
    out: Path | None = None,
    work: Path | None = None,
) -> tuple[Reproduction, Path]:
    """Measure a paper's claims and write what came out.

    Args:
        slug: which paper.
        quick: a minute: fewer seeds, images and epochs.
        data: images for the accuracy claims; each paper's default if None.
        device: "cpu" or "cuda".
        out: folder of the result; if None, docs/results/reproductions of the repository, or where
            the trainings are if `quick`, which is no result to publish.
        work: where trainings are kept, so that a second call goes on; runs/reproduce if None.

    Returns:
        The reproduction and the file it was written to, SLUG.json or SLUG_cuda.json.

    Raises:
        UsageError: no such paper, or no such device here.
    """
    chosen = paper(slug)
    if device not in ("cpu", "cuda"):
        raise unknown("device", device, ("cpu", "cuda"))
    accelerator_for(device)
    start = time.monotonic()
    ending = "" if device == "cpu" else f"_{device}"
    kind = "quick" if quick else "full"
    folder_of_work = (work or Path("runs/reproduce")) / slug / f"{kind}{ending}"
    folder = out or (folder_of_work if quick else results_dir() / "reproductions")
    spent = folder_of_work / "minutes.json"  # by earlier calls, from which this one goes on
    minutes = read_json(spent) if spent.is_file() else 0.0
    try:
        findings = chosen.reproduce(Setting(quick, folder_of_work, data, device))
    finally:
        minutes += (time.monotonic() - start) / 60
        write_json(spent, minutes)
    found = machine()
    reproduction = Reproduction(
        slug=slug,
        title=chosen.CARD.title,
        verdict=overall(findings),
        findings=findings,
        quick=quick,
        seeds=chosen.SEEDS[:1] if quick else chosen.SEEDS,
        hardware=found.hardware,
        threads=default_threads(),
        versions=found.versions,
        minutes=round(minutes, 2),
        command=own_command(),
        device=device,
    )
    return reproduction, write_json(folder / f"{slug}{ending}.json", reproduction.to_dict())
