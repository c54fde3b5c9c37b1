"""The space of SiNets that are searched: a point is a few small numbers and names, and a network.

Depths, widths, kernels and expansions of each stage, where attention sits and how far it reaches
(the whole map, windows, or windows spread over the map), activation, head and resolution. The
hand-set variants are points of it, so a search that begins with them ends no worse than they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sinet.errors import unknown
from sinet.models.spec import ModelSpec
from sinet.search.specs import SMALL_IMAGE

if TYPE_CHECKING:
    from optuna import Trial

SPACES = ("sinet", "nasnet")
REACH = {"global": (0, False), "window": (7, False), "sparse": (7, True)}
"""Name -> side of the windows of attention, 0 for the whole map, and whether they are spread."""
HAND_SET = ("sinet_tiny", "sinet_small", "sinet_base")

Point = Mapping[str, int | str]
Choices = range | tuple[str, ...]

_HAND_DEPTHS = {
    "sinet_tiny": (32, (2, 2, 4, 2), (0, 0, 1), 640),
    "sinet_small": (48, (2, 2, 4, 2), (0, 1, 1), 768),
    "sinet_base": (64, (2, 3, 8, 2), (0, 2, 2), 1024),
}
"""Width, depths, attention of stages 2 to 4 and head of the variants (sinet.models.sinet)."""


def check_space(name: str) -> str:
    """The name, if there is such a space.

    Raises:
        UsageError: there is none; the nearest is offered.
    """
    if name not in SPACES:
        raise unknown("space", name, SPACES)
    return name


@dataclass(frozen=True)
class SiNetSpace:
    """SiNets for images of a size.

    Attributes:
        image_size: typical shorter side of the images, pixels.
    """

    image_size: int

    @property
    def small(self) -> bool:
        """Whether images are taken as they are, without the stem's stride."""
        return self.image_size <= SMALL_IMAGE

    @property
    def sizes(self) -> range:
        """Resolutions, pixels."""
        if self.small:
            largest = max(24, -(-self.image_size // 8) * 8)
            return range(max(16, largest - 16), largest + 1, 8)
        largest = min(224, -(-self.image_size // 32) * 32)
        return range(min(96, largest), largest + 1, 32)

    @property
    def choices(self) -> dict[str, Choices]:
        """What may be chosen, by name."""
        found: dict[str, Choices] = {
            "size": self.sizes,
            "width": range(16, 97, 8),
            "head": range(256, 1281, 128),
            "act": ("relu", "hard_swish", "gelu"),
        }
        if self.image_size <= 40:
            found["first_stride"] = range(1, 3)
        for stage, deepest in enumerate((4, 6, 14, 4), start=1):
            found[f"depth_{stage}"] = range(1, deepest + 1)
            found[f"kernel_{stage}"] = range(3, 8, 2)
            found[f"expansion_{stage}"] = range(2, 7)
            if stage > 1:
                found[f"growth_{stage}"] = range(2, 6)  # halves: 1 to 2.5 times the stage before
                found[f"attention_{stage}"] = range(7)
                found[f"reach_{stage}"] = tuple(REACH)
        return found

    def suggest(self, trial: Trial) -> dict[str, int | str]:
        """A point that Optuna proposes."""
        return {
            name: trial.suggest_int(name, c[0], c[-1], step=c.step)
            if isinstance(c, range)
            else str(trial.suggest_categorical(name, c))
            for name, c in self.choices.items()
        }

    def spec(self, point: Point) -> ModelSpec:
        """The network of a point."""
        dims = [int(point["width"])]
        for stage in (2, 3, 4):
            dims.append(max(8, round(dims[-1] * int(point[f"growth_{stage}"]) / 16) * 8))
        stages = (1, 2, 3, 4)
        depths = [int(point[f"depth_{s}"]) for s in stages]
        wanted = [0, *(int(point[f"attention_{s}"]) for s in stages[1:])]
        reach = [REACH["global"], *(REACH[str(point[f"reach_{s}"])] for s in stages[1:])]
        options: dict[str, Any] = {
            "dims": dims,
            "depths": depths,
            "attention": [min(a, d) for a, d in zip(wanted, depths, strict=True)],
            "windows": [window for window, _ in reach],
            "sparse": [sparse for _, sparse in reach],
            "kernel_sizes": [int(point[f"kernel_{s}"]) for s in stages],
            "expansions": [int(point[f"expansion_{s}"]) for s in stages],
            "stem_width": dims[0] // 2,
            "head_width": int(point["head"]),
            "act_layer": str(point["act"]),
        }
        if self.small:
            options["stem_stride"] = 1
        if point.get("first_stride") == 1:
            options["strides"] = [1, 2, 2, 2]
        return ModelSpec("sinet_small", int(point["size"]), options)

    def smallest(self) -> dict[str, int | str]:
        """The point of the least of everything, which no other is faster than."""
        least: dict[str, int | str] = {name: c[0] for name, c in self.choices.items()}
        if "first_stride" in least:  # the least stride makes the largest maps
            least["first_stride"] = 2
        return least

    def hand_set(self, variant: str) -> dict[str, int | str]:
        """The point of one of `HAND_SET`, at the images' own size."""
        width, depths, attention, head = _HAND_DEPTHS[variant]
        point: dict[str, int | str] = {
            "size": self.sizes[-1], "width": width, "head": head, "act": "relu",
        }  # fmt: skip
        for stage, (depth, kernel) in enumerate(zip(depths, (3, 3, 5, 5), strict=True), start=1):
            point |= {f"depth_{stage}": depth, f"kernel_{stage}": kernel, f"expansion_{stage}": 4}
            if stage > 1:
                point |= {
                    f"growth_{stage}": 4,
                    f"attention_{stage}": attention[stage - 2],
                    f"reach_{stage}": "global",
                }
        if "first_stride" in self.choices:
            point["first_stride"] = 2
        return point
