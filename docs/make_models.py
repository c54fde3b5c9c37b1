"""Write a page for each family of networks, and the table of the reproductions.

    python docs/make_models.py

What a family is comes from its paper's card, its shape from its own code, its numbers from
docs/results: nothing on these pages is typed by hand.
"""

from __future__ import annotations

import html
import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import timm
import torch
from make_results import DOCS, fill
from torch import nn

from sinet.errors import SinetError
from sinet.files import read_json, write_text
from sinet.measurement.cost import cost
from sinet.models import create_network, list_networks
from sinet.models.spec import ModelSpec
from sinet.papers.base import Card, Published, papers

RESULTS = DOCS / "results"
MOST_LAYERS = 12
"""A diagram of more layers shows how many there are, not each."""
PARAMETERS = "parameters (exact below 0.1 M)"
TIMED = "Counted and timed here: ONNX Runtime, batch 1 (docs/results/zoo_latency.json)."
UNREPORTED = "Counted here; published figures, where there are any, are in the claims below."
PAPER = "paper: "
"""How the columns of what a paper prints begin; the others are ours."""
PRINTED = "The paper's columns are as it prints them, rounded; top-1 in per cent."
Shape = tuple[int, int, int]


def result(name: str) -> dict[str, Any]:
    """What a result file explains about itself; nothing where it is not there yet."""
    path = RESULTS / f"{name}.json"
    return dict(read_json(path)["extra"]) if path.is_file() else {}


def reproduction(slug: str) -> dict[str, Any]:
    """The committed reproduction of a paper; nothing where there is none or only a quick one."""
    path = RESULTS / "reproductions" / f"{slug}.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return {} if found.get("quick") else found  # a minute shows that it runs and decides little


class Box(NamedTuple):
    """A box of a diagram: what stands in it, and how large it is."""

    lines: tuple[str, ...]
    width: int
    height: int


def boxed(lines: tuple[str, ...], blocks: int, height: int) -> Box:
    """A box as wide as what it stands for is deep, and never smaller than its text."""
    return Box(lines, max(60 + 10 * min(blocks, 12), 10 + 7 * max(map(len, lines))), height)


def blocks_of(module: nn.Module) -> list[str]:
    """The kind of each block of a stage; stems, norms and downsampling aside."""
    inner: nn.Module = getattr(module, "blocks", module)
    several = isinstance(inner, nn.Sequential | nn.ModuleList)
    parts = inner.children() if several else [inner]
    kinds = [type(m).__name__ for m in parts if any(True for _ in m.parameters())]
    chief = max(kinds, key=kinds.count, default="")
    named = [kind for kind in kinds if kind.endswith("Block")]  # a stage may mix several kinds
    return named or [kind for kind in kinds if kind == chief]


def level_blocks(network: nn.Module, levels: list[dict[str, Any]], shape: Shape) -> list[int]:
    """How many blocks make the map of each feature level.

    Most levels are stages that hold their blocks. In a flat row of blocks ("cells.5") a level is
    only one of them, so the others of its kind are counted where the side of their map says.
    """
    sides = [level["side"] for level in levels]
    paths = [level["module"].rpartition(".") for level in levels]
    modules = [network.get_submodule(level["module"]) for level in levels]
    kinds = {kind for module in modules for kind in blocks_of(module)}
    flat = {parent for parent, _, index in paths if index.isdigit()}
    alone = zip(modules, paths, strict=True)
    counts = [0 if path[0] in flat else len(blocks_of(module)) for module, path in alone]

    def place(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        fitting = [side for side in sides if side <= output.shape[-2]]
        blocks = [kind for kind in blocks_of(module) if kind in kinds]
        counts[sides.index(max(fitting, default=min(sides)))] += len(blocks)

    for row in flat:
        for part in network.get_submodule(row).children():
            part.register_forward_hook(place)
    with torch.device("meta"), torch.no_grad():
        network.eval()(torch.empty(1, *shape))
    return counts


def map_sides(name: str, reductions: list[int], shape: Shape) -> list[int]:
    """Height of each feature map, pixels: as a forward gives it, else by division, rounded up."""
    try:
        with torch.device("meta"), torch.no_grad():
            network: Any = timm.create_model(name, features_only=True).eval()
            sides = [int(y.shape[-2]) for y in network(torch.empty(1, *shape))]
    except (SinetError, RuntimeError):  # not every network gives out its maps
        sides = []
    same = len(sides) == len(reductions)
    return sides if same else [math.ceil(shape[-2] / r) for r in reductions]


def level_boxes(name: str, network: nn.Module, levels: list[dict[str, Any]]) -> list[Box]:
    """A box a feature level, as high as its map."""
    shape = timm.get_pretrained_cfg(name).input_size
    sides = map_sides(name, [level["reduction"] for level in levels], shape)
    levels = [{**level, "side": side} for level, side in zip(levels, sides, strict=True)]
    boxes = []
    for level, count in zip(levels, level_blocks(network, levels, shape), strict=True):
        halvings = max(1, round(math.log2(shape[-2] / level["side"])))
        width = f"{count} x {level['num_chs']}" if count else f"{level['num_chs']}"
        lines = (level["module"], width, f"{level['side']} px")
        boxes.append(boxed(lines, count, max(54, 160 // halvings)))
    return boxes


def layer_boxes(network: nn.Module) -> list[Box]:
    """A box a layer, for networks without maps to give out; one for all of many."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if len(layers) > MOST_LAYERS:
        kinds = " + ".join(sorted({type(m).__name__ for m in layers}))
        return [boxed((f"{len(layers)} layers", kinds), len(layers), 54)]
    widths = [m.out_features if isinstance(m, nn.Linear) else m.out_channels for m in layers]
    return [boxed((type(m).__name__, f"{w}"), 1, 54) for m, w in zip(layers, widths, strict=True)]


def drawn(name: str, boxes: list[Box]) -> str:
    """Boxes in a row as an SVG."""
    x, parts = 10, []
    for lines, width, height in boxes:
        parts.append(
            f'<rect x="{x}" y="{100 - height // 2}" width="{width}" height="{height}" rx="4" '
            'fill="#00968822" stroke="#009688"/>'
        )
        first = 103 - 7 * (len(lines) - 1)  # so that the lines stand around the middle
        for i, line in enumerate(lines):
            parts.append(
                f'<text x="{x + width // 2}" y="{first + 14 * i}" text-anchor="middle" '
                f'font-size="11" fill="currentColor">{html.escape(line)}</text>'
            )
        x += width + 14
    return (
        f'<svg viewBox="0 0 {x} 200" width="{x}" role="img" aria-label="{name}" '
        f'style="max-width:100%">{"".join(parts)}</svg>'
    )


def diagram(name: str) -> list[str]:
    """The network as an SVG, and what its boxes are."""
    with torch.device("meta"):
        network: Any = timm.create_model(name)
    info = network.feature_info
    levels = info.info if hasattr(info, "info") else info
    if not levels:
        return [drawn(name, layer_boxes(network)), "", f"`{name}`, a box a layer: its width.", ""]
    caption = f"`{name}`, a box a feature level: blocks x channels, and the height of its map."
    return [drawn(name, level_boxes(name, network, levels)), "", caption, ""]


def counted(number: int) -> str:
    """A count of parameters: exact where it is small, else in millions."""
    return f"{number:,}" if number < 1e5 else f"{number / 1e6:.2f} M"


def printed(told: Published, size: int) -> tuple[str, str, str]:
    """What a paper prints of a network: parameters, MMACs and top-1; "" where nothing.

    `size` is the network's own; the paper's is told where it is another.
    """
    other = f" ({told.size} px)" if told.size not in (None, size) else ""
    params = macs = top1 = ""
    if told.params is not None:
        params = f"{told.params * 1e6:,.0f}" if told.params < 0.1 else f"{told.params} M"
    if told.macs is not None:
        macs = f"{told.macs * 1e3:,g}{other}"
    if told.top1 is not None:
        top1 = f"{told.top1}{other}"
    return params, macs, top1


def variant_row(name: str, zoo: Mapping[str, Any], told: Published) -> list[tuple[str, str]]:
    """Columns and cells of one network, with the classes it was designed for."""
    cfg = timm.get_pretrained_cfg(name)
    channels, size, _ = cfg.input_size
    with torch.device("meta"):
        network = ModelSpec(name, size).create(cfg.num_classes, channels, load=False)
    facts = cost(network, size, channels)
    timed = zoo.get(name, {})
    mmacs = facts.macs / 1e6
    work = f"{mmacs:,.0f}" if mmacs > 9 else f"{mmacs:.2f}"
    params, macs, top1 = printed(told, size)
    cells = [("name", name), ("px", f"{size}"), (PARAMETERS, counted(facts.params))]
    cells += [(PAPER + "parameters", params), ("MMACs", work), (PAPER + "MMACs", macs)]
    cells += [(PAPER + "top-1", top1)]
    for precision in ("FP32", "INT8"):
        found = timed.get(precision.lower())
        cells += [
            (f"{precision} ms", f"{found['ms']:.2f}" if found else ""),
            ("of peak", f"{found['efficiency']:.0%}" if found else ""),
        ]
    return cells


def variant_table(
    names: list[str], zoo: Mapping[str, Any], published: Mapping[str, Published]
) -> list[str]:
    """The table of variants, with those of the paper's columns that it fills."""
    nothing = Published(None, None)
    rows = [variant_row(name, zoo, published.get(name, nothing)) for name in names]
    filled = [
        not column[0][0].startswith(PAPER) or any(cell for _, cell in column)
        for column in zip(*rows, strict=True)
    ]
    header = [title for title, _ in rows[0]]
    lines = [header, ["---"] * len(header), *([cell for _, cell in row] for row in rows)]
    kept = [[cell for cell, keep in zip(line, filled, strict=True) if keep] for line in lines]
    return ["| " + " | ".join(line) + " |" for line in kept]


def other_row(name: str) -> str:
    """One line of the table of networks that are no classifiers, and of necks."""
    if name not in list_networks():
        return f"| `{name}` | neck | |"
    network = create_network(name)
    params = sum(p.numel() for p in network.parameters())
    return f"| `{name}` | {type(network).__name__} | {counted(params)} |"


def verdict_lines(slug: str) -> list[str]:
    """The findings of the committed reproduction."""
    found = reproduction(slug)
    if not found:
        return ["Not measured yet."]
    lines = [f"**{found['verdict']}** ({found['hardware']}, {found['minutes']:g} minutes)", ""]
    return lines + [f"- {f['claim']}: **{f['verdict']}**. {f['why']}" for f in found["findings"]]


def file_of(name: str, slug: str) -> str:
    """The module that holds a network: its registered function's, else that of the slug."""
    if timm.is_model(name):
        return str(timm.model_entrypoint(name).__module__)
    return next(m for m in (f"sinet.models.{slug}", f"sinet.heads.{slug}") if m in sys.modules)


def stated(files: set[str]) -> list[str]:
    """The figures that a paper reports, as the family's files state them."""
    lines: list[str] = []
    for file in sorted(files):
        text = inspect.getdoc(sys.modules[file]) or ""
        paragraphs = [p[p.index("Reported") :] for p in text.split("\n\n") if "Reported" in p]
        lines += [line for paragraph in paragraphs for line in (paragraph, "")]
    return lines or [UNREPORTED, ""]


def reported(card: Card, names: list[str]) -> list[str]:
    """What to know about the paper's columns, or what it reports where there are none."""
    files = {name: file_of(name, card.slug) for name in names}
    columns = [f"{PRINTED} {card.caveat}".strip(), ""]
    lines = columns if card.published else stated(set(files.values()))
    theirs = [f"`{name}`" for name, file in files.items() if file.startswith("timm.")]
    return [*lines, *([f"timm's own networks: {', '.join(theirs)}.", ""] if theirs else [])]


def page(card: Card, names: list[str]) -> str:
    """A family's page."""
    zoo, parity = result("zoo_latency").get("models", {}), result("parity_cases_passed")
    errors = parity.get("largest_relative_error", {})
    cases = {k: e for k, e in errors.items() if k.split("_")[0] == card.slug}
    source = f"[{card.venue}]({card.url})" if card.url else card.venue
    year = f", {card.year}" if card.year else ""
    lines = [
        f"# {card.slug}", "", f"*{card.title}*. {card.authors}. {source}{year}. "
        f"Code: {card.licence}.", "", card.idea, "", "```text", *card.equations, "```", "",
    ]  # fmt: skip
    others = [name for name in names if not timm.is_model(name)]
    ours = [name for name in names if timm.is_model(name)]
    if others:
        lines += [
            f"| name | what | {PARAMETERS} |",
            "| --- " * 3 + "|",
            *map(other_row, others),
            "",
        ]
    if ours:
        lines += [*diagram(ours[0]), *variant_table(ours, zoo, card.published), ""]
    lines += [*reported(card, names), *([TIMED, ""] if ours else [])]
    lines += ["## Proof", "", card.parity, ""]
    lines += [f"- `{name}`: largest relative error {error:.1e}" for name, error in cases.items()]
    lines += ["", "## What the paper claims", "", *(f"- {claim}" for claim in card.claims)]
    lines += ["", "## What was measured here", "", *verdict_lines(card.slug), ""]
    lines += [f"Repeat it: `sinet reproduce {card.slug}`", ""]
    return "\n".join(lines)


def reproductions(cards: list[Card]) -> str:
    """The table of all verdicts."""
    measured = {card.slug: reproduction(card.slug) for card in cards}
    done = [slug for slug, found in measured.items() if found]
    lines = ["# Reproductions", "", "Papers' claims, measured again small: what was confirmed,",
             "what was refuted, what could not be decided at this scale.", "",
             f"Measured so far: {len(done)} of {len(cards)} papers.", "",
             "| paper | claim | verdict | measured |", "| --- | --- | --- | --- |"]  # fmt: skip
    for card in cards:
        for f in measured[card.slug].get("findings", []):
            cells = [f"[{card.slug}](models/{card.slug}.md)", f["claim"], f["verdict"], f["why"]]
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Write all pages."""
    cards = [module.CARD for module in papers().values()]
    for card in cards:
        names = [n for n in card.models if not n.endswith("_test")]
        write_text(DOCS / "models" / f"{card.slug}.md", page(card, names))
    write_text(DOCS / "reproductions.md", reproductions(cards))
    listed = "\n".join(f"- [{c.slug}]({c.slug}.md): {c.title}" for c in cards)
    fill(DOCS / "models" / "index.md", "families", listed)


if __name__ == "__main__":
    main()
