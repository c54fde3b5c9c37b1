"""Make the profile of this device: its peaks and the timed table of the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from sinet.errors import SinetError
from sinet.measurement.machine import machine
from sinet.measurement.profile import DeviceProfile, ProfileRow
from sinet.models.spec import ModelSpec
from sinet.search.budget import Budget
from sinet.search.candidates import Candidate, Progress, time_candidates
from sinet.search.specs import default_specs


def profile_device(
    image_sizes: Sequence[int] = (224, 32),
    *,
    minutes: float = 6.0,
    threads: int | None = None,
    progress: Progress | None = None,
    cache: bool = True,
) -> DeviceProfile:
    """Time the candidates for images of these sizes here.

    Args:
        image_sizes: shorter sides of the images that the device will see; each gets its share of
            the minutes.
        minutes: time to spend in all.
        threads: intra-operator threads, `default_threads()` if None.
        progress: told after each network.
        cache: read and extend the table in the user's cache folder.

    Raises:
        SinetError: no network could be timed in that time.
    """
    timed: dict[tuple[ModelSpec, str], Candidate] = {}
    for size in image_sizes:
        found = time_candidates(
            default_specs(size),
            Budget(),
            image_hw=(size, size),
            threads=threads,
            seconds=minutes * 60 / len(image_sizes),
            progress=progress,
            cache=cache,
        )
        timed |= {(c.spec, c.precision): c for c in found}
    rows = [
        ProfileRow(
            name=c.spec.name,
            size=c.spec.size,
            kwargs=dict(c.spec.kwargs),
            precision=c.precision,
            latency=c.latency,
            params=c.params,
            macs=c.macs,
            file_mb=c.file_mb,
            memory_mb=c.memory_mb,
        )
        for c in timed.values()
        if c.latency is not None
    ]
    if not rows:
        raise SinetError(f"no network could be timed in {minutes:g} minutes; give more --minutes")
    largest = max(image_sizes)
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return DeviceProfile(machine(), tuple(rows), (largest, largest), date)
