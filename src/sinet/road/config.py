"""What a person asks of `sinet fit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinet.errors import UsageError, unknown
from sinet.models.spec import ModelSpec
from sinet.search.budget import Budget
from sinet.tasks.signatures import list_tasks
from sinet.tasks.train_command import split_overrides
from sinet.training.recipe import Recipe


@dataclass(frozen=True)
class FitConfig:
    """What a person asks of `fit`; empty means: not asked for."""

    data: str
    """Folder, file or archive of images."""
    budget: str = ""
    """Limits of the shipped file, as `Budget.parse` reads them."""
    minutes: float = 10.0
    """Minutes of training, over all candidates."""
    out: str = ""
    """Run folder; `runs/NAME` by the name of the data."""
    task: str = ""
    """What the labels are for; by the look of the data."""
    profile: str = ""
    """A device's profile: choose for that device instead of this machine."""
    models: tuple[str, ...] = ()
    """Only networks, heads or backbones of these names (wildcards allowed)."""
    recipe: str = ""
    """Recipe; by task and starting weights if empty."""
    overrides: tuple[str, ...] = ()
    """Recipe values such as `lr=0.01`, and options of networks such as `model.neck=catnet`."""
    weights: str = ""
    """Folder with pretrained weights."""
    max_drop: float = 0.5
    """Points that INT8 may lose against the trained model."""
    threads: int = 0
    """Threads of the shipped model; 0 = all cores."""
    device: str = "auto"
    """Where to train."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is read."""
        if self.minutes <= 0:
            raise UsageError(f"--minutes {self.minutes:g} given; a number above 0 expected")
        if self.task and self.task not in list_tasks():
            raise unknown("task", self.task, list_tasks())
        if self.budget:
            Budget.parse(self.budget)
        split_overrides(self.overrides)

    @property
    def folder(self) -> Path:
        """The run folder."""
        name = Path(self.data).resolve().name.split(".")[0]
        return Path(self.out) if self.out else Path("runs") / name

    @property
    def limits(self) -> Budget:
        """The budget; no limit where none is given."""
        return Budget.parse(self.budget) if self.budget else Budget()

    @property
    def model_options(self) -> dict[str, Any]:
        """What networks are built with beside their own options."""
        return split_overrides(self.overrides)[1]

    def recipe_for(self, spec: ModelSpec, usual: str) -> Recipe:
        """The recipe that this network learns by: the one asked for, or else the `usual` one."""
        recipe = Recipe.from_yaml(self.recipe or usual)
        return recipe.replace(seed=self.seed, **split_overrides(self.overrides)[0])
