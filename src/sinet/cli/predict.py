"""`sinet predict`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinet.errors import UsageError

if TYPE_CHECKING:
    from sinet.deployment.predictor import Predictor


def predict(
    model: Annotated[Path, typer.Argument(help="model.onnx, or a run or ship folder.")],
    sources: Annotated[
        list[str], typer.Argument(help="Images, videos, folders, 'globs*' and webcam:0.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="results.csv: rows; results.json: all that is known, masks as well; "
            "NAME.coco.json: boxes, objects or classes of pixels; a folder: answers that are files "
            "(volumes, scenes, pictures). Else a table is shown."
        ),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the images and videos with the answers drawn on them: NAME.png or "
            "NAME.mp4, and NAME-2, NAME-3, ... for further sources of that name."
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show the drawn answers in a window.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="onnxruntime, openvino or torch; ray: onnxruntime in many processes, on the "
            "machines of the cluster at RAY_ADDRESS or on this one; killed, it goes on."
        ),
    ] = "onnxruntime",
    top: Annotated[int, typer.Option(min=1, help="Classes to give in each row.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads; all cores by default, with ray 1 a process.")
    ] = None,
) -> None:
    """Say what is in images, videos and before cameras, with an exported model.

    One row an answer, and one for each file that cannot be read, which holds the error. Videos and
    cameras are answered frame by frame, cameras until Ctrl-C or until the window is closed; a video
    that ends early has its error after its frames.

    Example: `sinet predict runs/photos/model.onnx new/*.jpg --out results.csv --top 3`
    """
    from rich.console import Console
    from rich.progress import track

    from sinet.data.video import is_camera
    from sinet.deployment.footage import Watcher
    from sinet.deployment.predictor import Predictor
    from sinet.deployment.sink import Sinks
    from sinet.deployment.sinks import Drawings, Screen, sinks_for

    spread = engine == "ray"
    predictor = Predictor(model, "onnxruntime" if spread else engine, threads)
    watcher = Watcher(predictor, model, threads)
    files = list(_expand(sources, watcher.predictor))
    moving, live = any(map(watcher.plays, files)), any(map(is_camera, files))
    if spread:
        if live or draw or show:
            raise UsageError("engine ray writes rows about files: no camera, --draw or --show")
        _spread(model, files, out, top=top, moving=moving, threads=threads)
        return
    places = sinks_for(out, watcher.predictor.metadata, top, moving)
    places += [*([Drawings(draw)] if draw else []), *([Screen()] if show else [])]
    seen = track(files, "predict", console=Console(stderr=True), transient=True, disable=live)
    sinks = Sinks(places)
    with sinks, suppress(KeyboardInterrupt) if live else nullcontext():
        for answer in watcher.answers(seen):
            sinks.add(answer)
            if sinks.closed:
                break
    kind = "images and frames" if moving else "images"
    wrote = f"; wrote {out}" if out else ""
    typer.echo(f"{sinks.count} {kind}, {sinks.bad} unreadable{wrote}", err=True)


def _spread(model: Path, files: list[Path | str], out: Path | None, **options: Any) -> None:
    """Let Ray's workers answer."""
    from rich.console import Console
    from rich.progress import track

    from sinet.deployment.ray_predict import Collection

    collection = Collection(model, [Path(file) for file in files], out, **options)
    err = Console(stderr=True)
    done = collection.answered()
    for _ in track(done, "predict", total=len(collection), console=err, transient=True):
        pass
    typer.echo(f"{len(files)} files, {collection.bad} unreadable; wrote {out}", err=True)


def _expand(sources: Iterable[str], predictor: Predictor) -> Iterator[Path | str]:
    """Files as given, images of folders, matches of globs; each in order. Cameras stay names."""
    import glob

    from sinet.data.video import is_camera

    for source in sources:
        path = Path(source)
        if is_camera(source):
            yield source
        elif path.is_dir():
            inside = predictor.signature.input.inside(path)
            if not inside:
                raise UsageError(f"no images in {path}; give a folder that holds some")
            yield from inside
        elif path.exists() or not glob.has_magic(source):
            yield path  # a missing file gets its row with the error
        else:
            found = sorted(glob.glob(source, recursive=True))
            if not found:
                raise UsageError(f"nothing matches {source!r}")
            yield from map(Path, found)
