"""What a device is and how fast it runs each candidate, so that another machine can choose for it.

`sinet profile --out pi5.json`, run on the device, writes one; `sinet fit --profile pi5.json` reads
it elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sinet.errors import DataError
from sinet.files import read_json, write_json
from sinet.measurement.latency import Latency
from sinet.measurement.machine import Machine, versions

FORMAT = 1


@dataclass(frozen=True)
class ProfileRow:
    """One timed candidate: a network at a size and precision, as an assembled file.

    Attributes:
        name: registered model name.
        size: network input, pixels.
        kwargs: options the model was built with.
        precision: "fp32" or "int8".
        latency: of one image through the file on the device.
        params: parameters.
        macs: multiply-adds an image.
        file_mb: MB of 1,000,000 bytes.
        memory_mb: peak resident memory of a process that runs it; None where not measured.
    """

    name: str
    size: int
    kwargs: dict[str, Any]
    precision: str
    latency: Latency
    params: int
    macs: int
    file_mb: float
    memory_mb: float | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """A device with its timed table.

    Attributes:
        machine: the device.
        rows: the timed candidates.
        image_hw: height and width of the images they were timed on.
        date: when, ISO 8601.
    """

    machine: Machine
    rows: tuple[ProfileRow, ...]
    image_hw: tuple[int, int]
    date: str

    def find(
        self, name: str, size: int, kwargs: Mapping[str, Any], precision: str
    ) -> ProfileRow | None:
        """The row of this candidate, if the device timed it."""
        wanted = (name, size, dict(kwargs), precision)
        rows = (r for r in self.rows if (r.name, r.size, r.kwargs, r.precision) == wanted)
        return next(rows, None)

    def notes(self) -> list[str]:
        """What a person should know before trusting these times with the versions here."""
        here, there = versions(), self.machine.versions
        return [
            f"the profile was made with {package} {there.get(package, 'unknown')}, here is "
            f"{here.get(package, 'none')}: times may differ; run `sinet profile` there again"
            for package in ("sinet", "timm", "onnxruntime")
            if _minor(here.get(package, "")) != _minor(there.get(package, ""))
        ]

    def save(self, path: str | Path) -> Path:
        """Write the profile as JSON."""
        return write_json(
            path,
            {
                "format": FORMAT,
                "machine": self.machine.to_dict(),
                "image_hw": list(self.image_hw),
                "date": self.date,
                "rows": [asdict(row) for row in self.rows],
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> DeviceProfile:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, not a profile, written in another format, or without rows.
        """
        again = "run `sinet profile --out FILE` on the device and copy the file here"
        try:
            values = read_json(path)
            if not isinstance(values, dict) or "rows" not in values:
                raise DataError(f"{path} is not a device profile; {again}")
            if values.get("format") != FORMAT:
                found = values.get("format")
                raise DataError(f"{path} has profile format {found!r}, not {FORMAT}; {again}")
            rows = tuple(_row(row) for row in values["rows"])
            height, width = values["image_hw"]
            machine = Machine.from_dict(values["machine"])
            profile = cls(machine, rows, (int(height), int(width)), str(values["date"]))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; {again}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is a damaged device profile ({error!r}); {again}") from error
        if not profile.rows:
            raise DataError(f"{path} holds no timed model; {again}")
        return profile


def _row(values: Mapping[str, Any]) -> ProfileRow:
    row = ProfileRow(**{**values, "latency": Latency.from_dict(values["latency"])})
    if not (isinstance(row.size, int) and float(row.latency.median_ms) > 0):
        raise ValueError(f"size {row.size!r}, median {row.latency.median_ms!r} ms")
    return row


def _minor(version: str) -> str:
    """The part of a version that decides speed: "1.31" of "1.31.1"."""
    return ".".join(version.split(".")[:2])
