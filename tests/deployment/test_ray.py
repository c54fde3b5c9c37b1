"""Collections answered by Ray's workers: every file once, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from sinet.cli import guarded
from sinet.cli.predict import predict
from sinet.deployment import ray_predict
from sinet.deployment.ray_predict import Collection
from sinet.errors import SinetError, UsageError

from .making import pictures

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # Ray alone takes seconds to start


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray_predict._imported()
    ray.init(
        num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_predict, "SHARD", 4)


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(guarded(predict))
    return app


def called(app: typer.Typer, *words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen files, one of which is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(18):
        Image.fromarray(pictures(1, 50, 60, seed=i)[0]).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def expected(app: typer.Typer, photos: Path, model_file: Path) -> bytes:
    """What one process says of them."""
    out = photos.parent / "expected.csv"
    done = called(app, model_file, photos, "--out", out, "--threads", 1)
    assert done.exit_code == 0, done.output
    return out.read_bytes()


@pytest.fixture
def files(photos: Path) -> list[Path]:
    return sorted(photos.iterdir())


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_rows_are_those_of_one_process(
    app: typer.Typer, model_file: Path, photos: Path, expected: bytes, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(photos.parent)  # names may be relative
    arguments = (model_file, photos, "--engine", "ray", "--out", tmp_path / "a.csv")
    done = called(app, *arguments)
    assert done.exit_code == 0, done.output
    assert "18 files, 1 unreadable" in done.output
    assert (tmp_path / "a.csv").read_bytes() == expected
    assert inside(tmp_path) == ["a.csv"]
    relative = called(app, model_file, photos.name, "--engine", "ray", "--out", tmp_path / "b.csv")
    assert relative.exit_code == 0, relative.output
    assert f"\n{photos.name}/00.png," in (tmp_path / "b.csv").read_text().replace("\r", "")


def dying(often: bool) -> Callable[..., None]:
    """Work in which the second shard kills its worker half-way, once or always."""

    def work(*task: Any) -> None:
        *_, out = task
        died = Path(out).parent / "died"
        if out.endswith("000001.csv") and (often or not died.exists()):
            died.touch()
            module = sys.modules["sinet.deployment.ray_predict"]
            add, seen = module.CsvFile.add, []

            def add_and_die(self: Any, answer: Any) -> None:
                add(self, answer)
                seen.append(answer)
                if len(seen) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

            module.CsvFile.add = add_and_die
        write(*task)

    write = ray_predict._write_shard
    return work


def test_the_shard_of_a_killed_worker_is_done_again(
    model_file: Path, files: list[Path], expected: bytes, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(ray_predict, "_write_shard", dying(often=False))
    collection = Collection(model_file, files, tmp_path / "a.csv")
    died = False
    for _ in collection.answered():
        died |= (collection.folder / "died").exists()
    assert died
    assert (tmp_path / "a.csv").read_bytes() == expected
    assert inside(tmp_path) == ["a.csv"]


def test_a_file_that_kills_every_worker_is_named(
    model_file: Path, files: list[Path], expected: bytes, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(ray_predict, "_write_shard", dying(often=True))
        patch.setattr(ray_predict, "RETRIES", 1)
        with pytest.raises(SinetError, match=r"again and again over .*04\.png and the 4 files"):
            list(Collection(model_file, files, tmp_path / "a.csv").answered())
    assert not (tmp_path / "a.csv").exists()
    list(Collection(model_file, files, tmp_path / "a.csv").answered())
    assert (tmp_path / "a.csv").read_bytes() == expected


def test_a_killed_run_goes_on_with_the_shards_that_are_missing(
    model_file: Path, files: list[Path], expected: bytes, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = Collection(model_file, files, tmp_path / "a.csv")
    for number in first.answered():
        if number == 3:
            break
    for number in (0, 4):  # whatever else was done by then
        first.shard(number).unlink(missing_ok=True)
    before = first.shard(3).stat().st_mtime_ns
    monkeypatch.setattr(ray_predict.shutil, "rmtree", lambda folder: None)
    second = Collection(model_file, files, tmp_path / "a.csv")
    assert sorted(second.answered()) == list(range(5))
    assert second.shard(3).stat().st_mtime_ns == before
    assert (tmp_path / "a.csv").read_bytes() == expected


def test_shards_of_another_run_are_not_mixed_in(
    model_file: Path, files: list[Path], tmp_path: Path
) -> None:
    Collection(model_file, files, tmp_path / "a.csv")
    with pytest.raises(UsageError, match=r"another run: top was 1, is 2; delete it"):
        Collection(model_file, files, tmp_path / "a.csv", top=2)
    with pytest.raises(UsageError, match=r"another run: sources was"):
        Collection(model_file, files[1:], tmp_path / "a.csv")


def test_an_error_of_a_worker_is_said_as_it_is(
    model_file: Path, files: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(model_file.read_bytes()[:1000])
    with pytest.raises(UsageError, match="is not a whole ONNX file"):
        list(Collection(broken, files, tmp_path / "a.csv").answered())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "engine ray writes rows: give --out NAME.csv, not nothing"),
        (["--out", "a.json"], "give --out NAME.csv, not a.json"),
        (["--out", "a.csv", "--draw", "drawn"], "no camera, --draw or --show"),
        (["webcam:0", "--out", "a.csv"], "no camera, --draw or --show"),
    ],
)
def test_what_ray_does_not_do(
    words: list[str], says: str, app: typer.Typer, model_file: Path, photos: Path
) -> None:
    done = called(app, model_file, photos, "--engine", "ray", *words)
    assert done.exit_code == 2
    assert says in done.output.replace("\n", " ")
