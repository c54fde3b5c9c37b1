from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinet.errors import UsageError
from sinet.training.recipe import Recipe, named

FOLDER = Path(__file__).parents[2] / "src/sinet/training/recipes"
SOURCE = FOLDER.parent / "recipe.py"

recipes = st.builds(
    Recipe,
    epochs=st.floats(0.01, 1000),
    batch_size=st.integers(1, 4096),
    optimizer=st.sampled_from(["adamw", "sgd", "muon"]),
    lr=st.floats(0, 10),
    weight_decay=st.floats(0, 1),
    momentum=st.floats(0, 0.999),
    schedule=st.sampled_from(["cosine", "linear", "step"]),
    freeze=st.integers(-1, 10),
    mixup=st.floats(0, 1),
    flip=st.sampled_from(["horizontal", "none"]),
    channels_last=st.booleans(),
    progressive=st.floats(0.1, 1),
    seed=st.integers(0, 2**31 - 1),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=recipes)
def test_yaml_gives_back_the_same_recipe(recipe: Recipe, tmp_path: Path) -> None:
    assert Recipe.from_yaml(recipe.to_yaml(tmp_path / "r.yaml")) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_every_field_is_documented_and_in_the_file(tmp_path: Path) -> None:
    text = SOURCE.read_text()
    fields = {field.name for field in dataclasses.fields(Recipe)}
    for name in fields:
        assert re.search(rf'^    {name}: \w+ = \S+\n    """', text, re.M), f"document {name}"
    assert set(yaml.safe_load(Recipe().to_yaml(tmp_path / "r.yaml").read_text())) == fields


def test_text_from_a_command_line_becomes_values() -> None:
    changed = Recipe().replace(lr="1e-3", epochs="5", tta="true", optimizer="sgd", freeze="-1")
    assert (changed.lr, changed.epochs, changed.tta) == (1e-3, 5.0, True)
    assert (changed.optimizer, changed.freeze) == ("sgd", -1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lrr": 1}, "did you mean 'lr'"),
        ({"label_smothing": 0.1}, "did you mean 'label_smoothing'"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"epochs": 0}, "epochs: 0.0 is out of range; expected a number above 0"),
        ({"lr": -1}, "lr: -1.0 is out of range"),
        ({"ema": 1.0}, "below 1"),
        ({"lr": "fast"}, "lr: 'fast' is not a number"),
        ({"lr": "nan"}, "lr: nan is not a number"),
        ({"batch_size": 1.5}, "batch_size: 1.5 is not a whole number"),
        ({"batch_size": True}, "batch_size: True is not a whole number"),
        ({"tta": "perhaps"}, "tta: 'perhaps' is not true or false"),
        ({"flip": None}, "flip: None is not a word"),
        ({"version": 2}, "version: 2 is not one of 1"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(
    change: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        Recipe().replace(**change)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr: [1, 2", "is not valid YAML: line 1"),
        ("epochs: 3\nlr: : 4\n", "line 2"),
        ("- lr\n", "`key: value` lines"),
        ("learning_rate: 1\n", "unknown recipe key 'learning_rate'"),
    ],
)
def test_a_broken_file_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(says)):
        Recipe.from_yaml(path)


def test_an_unknown_name_gets_the_nearest_and_a_missing_file_its_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        Recipe.from_yaml("cifar-10")
    with pytest.raises(UsageError, match="cannot read the recipe"):
        Recipe.from_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize("name", named())
def test_a_named_recipe_loads_and_says_what_to_expect(name: str) -> None:
    Recipe.from_yaml(name)
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    text = " ".join(line for line in lines if line.startswith("#"))
    assert {"For:", "Result:", "Cost:"} <= set(text.split()), "say what for, result and cost"


def test_the_promised_recipes_are_there() -> None:
    sizes = [f"sinet_{s}_{e}e" for s in ("tiny", "small", "base", "large") for e in (300, 90)]
    small = ("minimal", "small", "medium", "large")
    sizes += [f"minspnet_{s}_{e}e" for s in small for e in (300, 90)]
    others = {"default", "finetune", "fashion_mnist", "cifar10", "segment", "detect", "superres"}
    others |= {
        "few_images",
        "digits",
        "volume",
        "hyperspectral",
        "hyperspectral_patch",
        "video",
        "instances",
    }
    others |= {"tabular"}
    assert set(sizes) | others == set(named())
