"""The recipe: everything about how a model learns, in one small file of plain values.

A recipe is read from YAML (a path, or the name of one of the recipes that come with the library),
checked once, changed with `replace` and written back beside what it produced. A named recipe states
in its header comment what it is for, what it gave and what it costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from sinet.errors import UsageError, unknown
from sinet.files import write_text
from sinet.training._fields import Choice, Range, check, coerce

_RECIPES = Path(__file__).parent / "recipes"

TASK_OPTIONS = frozenset({
    "loss", "label_smoothing", "mixup", "cutmix", "mix_prob", "mosaic", "randaugment",
    "color_jitter", "random_erasing", "flip", "crop", "crop_scale", "progressive", "tta",
    "teacher",
})  # fmt: skip
"""Fields that say what is learned and from what: not every task knows them. The others say how
weights change, whatever the task."""
_OFF = {"flip": "none", "crop": "none"}
"""What switches a field off whose default does something."""


@dataclass(frozen=True)
class Recipe:
    """How a model learns; see each field.

    Shares are shares of the whole training (0..1), so that a recipe still means the same when
    `epochs` changes. Nothing is scaled silently: `lr` is the peak rate at `batch_size`.
    """

    version: int = 1
    """Version of this schema."""
    epochs: float = 20.0
    """Passes over the training images; a fraction is allowed."""
    batch_size: int = 128
    """Images per optimizer step over all processes together."""
    optimizer: str = "adamw"
    """`adamw`, `sgd` (Nesterov) or `muon` (matrices and kernels by Muon, the rest by AdamW)."""
    lr: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 0.05
    """Decay of weights; never of norms, biases and what the model names in `no_weight_decay()`."""
    momentum: float = 0.9
    """Momentum of SGD and Muon; the first beta of AdamW."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises linearly to `lr`."""
    schedule: str = "cosine"
    """After the warm-up: `cosine` or `linear` to zero, or `step` (a tenth after 1/2 and 3/4)."""
    layer_decay: float = 1.0
    """Learning rate of a layer = lr x layer_decay ^ (layers above it); 1 = equal for all."""
    freeze: int = 0
    """Number of first layer groups (stem, stage 1, ...) that stay as they are; -1 = all but the
    classifier."""
    unfreeze: float = 0.0
    """Share of the steps over which layer groups are freed one at a time, from the classifier
    backwards; 0 = all learn from the first step. `layer_decay` gives each a lower rate."""
    freeze_norm: bool = False
    """Keep the BatchNorm statistics of the pretrained weights."""
    loss: str = "ce"
    """What is minimised over pixels or voxels: `ce`, `dice`, `focal`, `lovasz`, or a sum such as
    `ce+dice`."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    mixup: float = 0.0
    """Alpha of the Beta distribution that blends two images; 0 = off."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution for the area pasted from another image; 0 = off."""
    mix_prob: float = 1.0
    """Share of the batches that mixup or cutmix touches (both on: half each)."""
    mosaic: float = 0.0
    """Share of the images that are put together from four; only where boxes are learned."""
    randaugment: float = 0.0
    """Magnitude of RandAugment, 0..10; 0 = off."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter, 0..1."""
    random_erasing: float = 0.0
    """Share of the images in which a rectangle is erased; masks and boxes stay."""
    flip: str = "horizontal"
    """`horizontal`, or `none` for what must not be mirrored (digits, text)."""
    crop: str = "pad"
    """`resized` (random area and aspect), `pad` (shift by up to an eighth) or `none`."""
    crop_scale: float = 0.35
    """Smallest area that `resized` cuts, as a share of the image."""
    dropout: float = 0.0
    """Dropout before the classifier."""
    drop_path: float = 0.0
    """Stochastic depth: the share of the last block's samples that skip it (grows with depth)."""
    drop_path_ramp: float = 0.0
    """Share of the steps over which `drop_path` grows from zero to its value (ScheduledDropPath,
    arXiv:1707.07012); 0 = as it is from the first step. NASNets have it built in."""
    ema: float = 0.0
    """Decay of the averaged weights that are validated and kept (its own warm-up); 0 = off."""
    precision: str = "fp32"
    """`fp32`, or mixed with `bf16` or `fp16` (the latter on a GPU)."""
    grad_clip: float = 0.0
    """Largest norm of the gradient; 0 = off."""
    channels_last: bool = True
    """Memory order that convolutions prefer, on CPUs too."""
    progressive: float = 1.0
    """Share of the image size to begin with; the size grows in steps to 1 over the first 3/4."""
    tta: bool = False
    """Look at the mirrored image too: in validation, and in the exported file, which then takes
    twice as long. Logits and pixels are averaged, boxes of both are sifted together."""
    teacher: str = ""
    """Whom the network learns from beside the labels: the folder of a finished training or fit on
    the same classes, or the name of a model that has weights for these classes; empty = nobody."""
    teacher_weights: str = ""
    """Weights of a teacher that is a model's name, as `load_weights` takes them; empty = those at
    hand."""
    distil: str = "logits"
    """What is learned from the teacher: its probabilities (`logits`), its first choice (`hard`),
    its last feature map (`features`), where that map is strong (`attention`), or how alike the
    images are to it (`relation`)."""
    distil_weight: float = 0.5
    """Share of the teacher in the loss; the labels have the rest."""
    temperature: float = 2.0
    """What logits are divided by before `logits` compares probabilities: higher = softer."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        """Refuse values out of range, naming the field, the value and what is allowed."""
        for field in dataclasses.fields(self):
            check(field.name, getattr(self, field.name), _ALLOWED.get(field.name))
        if self.tta and self.flip == "none":
            raise UsageError(
                "tta=true looks at mirrored images, which flip=none rules out; set "
                "flip=horizontal, or leave tta out"
            )
        if self.unfreeze and self.freeze == -1:
            raise UsageError(
                f"unfreeze={self.unfreeze:g} frees layers that freeze=-1 keeps; leave one of them "
                "out"
            )
        if self.label_smoothing and not {"ce", "focal"} & set(self.loss.split("+")):
            raise UsageError(
                f"label_smoothing={self.label_smoothing:g} is no part of loss={self.loss}; leave "
                "it out, or add cross-entropy, as in ce+dice"
            )

    def check_for(self, task: str, options: Collection[str]) -> None:
        """Refuse what a task would ignore.

        Args:
            task: its name.
            options: those of `TASK_OPTIONS` that it knows; others must be at their default or off.

        Raises:
            UsageError: one is neither, or acts only with another that is off.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            idle = (field.default, _OFF.get(field.name, field.default))
            if field.name in TASK_OPTIONS - set(options) and value not in idle:
                raise UsageError(
                    f"{field.name}={str(value).lower()} means nothing to {task}; leave it out. Its "
                    f"own options: {', '.join(sorted(options))}"
                )
        for name, (needed, there) in _ACTS_WITH.items():
            value = getattr(self, name)
            if value != getattr(type(self), name) and not there(self):
                raise UsageError(
                    f"{name}={value} does nothing without {needed}; add that, or leave {name} out "
                    f"(its default is {getattr(type(self), name) or 'empty'})"
                )

    @classmethod
    def from_yaml(cls, source: str | Path) -> Recipe:
        """Read a recipe: the name of one that comes with the library, or the path of a file.

        Raises:
            UsageError: no such recipe or file, malformed YAML, an unknown key or a wrong value.
        """
        path = Path(source)
        if path.suffix not in {".yaml", ".yml"}:
            path = _RECIPES / f"{source}.yaml"
            if not path.is_file():
                raise unknown("recipe", str(source), named())
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the recipe {path}: {error}") from error
        except yaml.YAMLError as error:
            raise UsageError(f"the recipe {path} is not valid YAML: {_where(error)}") from error
        if not isinstance(values, dict):
            raise UsageError(f"the recipe {path} must be a list of `key: value` lines")
        return cls().replace(**{str(key): value for key, value in values.items()})

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed; text (from a command line) is turned into the type.

        Raises:
            UsageError: an unknown field, or a value of the wrong type or out of range.
        """
        hints = get_type_hints(Recipe)
        for key in changes:
            if key not in hints:
                raise unknown("recipe key", key, hints)
        return dataclasses.replace(self, **{k: coerce(k, v, hints[k]) for k, v in changes.items()})

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        return cls().replace(**values)

    def to_yaml(self, path: str | Path) -> Path:
        """Write all fields, whole or not at all."""
        return write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False))


def named() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


_ACTS_WITH: dict[str, tuple[str, Callable[[Recipe], object]]] = {
    "crop_scale": ("crop=resized", lambda r: r.crop == "resized"),
    "mix_prob": ("mixup or cutmix", lambda r: r.mixup or r.cutmix),
    "drop_path_ramp": ("drop_path", lambda r: r.drop_path),
    "teacher_weights": ("a teacher", lambda r: r.teacher),
    "distil": ("a teacher", lambda r: r.teacher),
    "distil_weight": ("a teacher", lambda r: r.teacher),
    "temperature": ("a teacher and distil=logits", lambda r: r.teacher and r.distil == "logits"),
}
"""Fields that others switch on: what a person would write without effect is refused."""
_SHARE = Range(0, 1)
_ALLOWED: dict[str, Choice | Range] = {
    "version": Choice((1,)),
    "epochs": Range(0, 100_000, open_low=True),
    "batch_size": Range(1, 1_000_000),
    "optimizer": Choice(("adamw", "sgd", "muon")),
    "lr": Range(0, 1_000),
    "weight_decay": Range(0, 10),
    "momentum": Range(0, 1, open_high=True),
    "warmup": _SHARE,
    "schedule": Choice(("cosine", "linear", "step")),
    "layer_decay": Range(0, 1, open_low=True),
    "freeze": Range(-1, 1_000),
    "unfreeze": _SHARE,
    "loss": Choice(("ce", "dice", "focal", "lovasz", "ce+dice", "focal+dice", "ce+lovasz")),
    "label_smoothing": Range(0, 1, open_high=True),
    "mixup": Range(0, 100),
    "cutmix": Range(0, 100),
    "mix_prob": _SHARE,
    "mosaic": _SHARE,
    "randaugment": Range(0, 10),
    "color_jitter": _SHARE,
    "random_erasing": _SHARE,
    "flip": Choice(("horizontal", "none")),
    "crop": Choice(("resized", "pad", "none")),
    "crop_scale": Range(0, 1, open_low=True),
    "dropout": Range(0, 1, open_high=True),
    "drop_path": Range(0, 1, open_high=True),
    "drop_path_ramp": _SHARE,
    "ema": Range(0, 1, open_high=True),
    "precision": Choice(("fp32", "bf16", "fp16")),
    "grad_clip": Range(0, 1e9),
    "progressive": Range(0, 1, open_low=True),
    "distil": Choice(("logits", "hard", "features", "attention", "relation")),
    "distil_weight": _SHARE,
    "temperature": Range(0, 100, open_low=True),
    "seed": Range(0, 2**31 - 1),
}
