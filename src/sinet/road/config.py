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
    """Pretrained weights: a folder of NAME.safetensors; or one source of `load_weights`, of the
    first teacher if there is one, else of the only network tried."""
    teachers: tuple[str, ...] = ()
    """Whom the networks learn from: folders of trainings, or names of models that are first trained
    on the data; each teaches the next, the last one the network."""
    freeze: int | None = None
    """First layer groups of pretrained networks that stay, -1 = all but the classifier; networks
    from scratch are then not tried. As the recipe has it if None."""
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
        if self.weights and not (self.weights_of_one or Path(self.weights).is_dir()):
            raise UsageError(
                f"--weights {self.weights} does not exist; give a folder, a file, hub:NAME or "
                "package:NAME"
            )

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

    @property
    def weights_folder(self) -> Path | None:
        """Where weights of all networks may lie."""
        return Path(self.weights) if self.weights and not self.weights_of_one else None

    @property
    def weights_of_one(self) -> str | None:
        """Weights of one network only: of a teacher, or of what is tried."""
        kind = self.weights.partition(":")[0]
        single = kind in ("hub", "package", "http", "https") or Path(self.weights).is_file()
        return self.weights if self.weights and single else None

    def teacher_folder(self, number: int) -> Path:
        """Where a teacher lies: the folder that was given, or where it will be trained."""
        given = Path(self.teachers[number])
        return given if given.exists() else self.folder / f"teacher-{number + 1}"

    def recipe_for(self, spec: ModelSpec, usual: str) -> Recipe:
        """The recipe that this network learns by: the one asked for, or else the `usual` one."""
        recipe = Recipe.from_yaml(self.recipe or usual)
        if self.teachers:
            recipe = recipe.replace(teacher=str(self.teacher_folder(len(self.teachers) - 1)))
        if self.freeze is not None:
            recipe = recipe.replace(freeze=self.freeze)
        return recipe.replace(seed=self.seed, **split_overrides(self.overrides)[0])
