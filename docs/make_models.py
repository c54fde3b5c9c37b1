"""Write a page for each family of networks, and the table of the reproductions.

    python docs/make_models.py

What a family is comes from its paper's card, its shape from its own code, its numbers from
docs/results: nothing on these pages is typed by hand.
"""

from __future__ import annotations

import html
import inspect
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import timm
import torch
from make_results import DOCS, fill
from torch import nn

from sinet.files import read_json, write_text
from sinet.heads import list_necks
from sinet.measurement.cost import cost
from sinet.models import create_network
from sinet.models.spec import ModelSpec
from sinet.papers.base import Card, papers

RESULTS = DOCS / "results"


def result(name: str) -> dict[str, Any]:
    """What a result file explains about itself; nothing where it is not there yet."""
    path = RESULTS / f"{name}.json"
    return dict(read_json(path)["extra"]) if path.is_file() else {}


def stages(name: str) -> list[tuple[str, int, int, int]]:
    """(module, blocks, channels, reduction) of each feature level of a network."""
    with torch.device("meta"):
        network: Any = timm.create_model(name)
    info = network.feature_info
    entries = info.info if hasattr(info, "info") else info
    found = []
    for level in entries:
        module = network.get_submodule(level["module"]) if level["module"] else nn.Identity()
        inner = getattr(module, "blocks", module)
        kinds = Counter(type(child) for child in inner.children())
        several = isinstance(inner, nn.Sequential | nn.ModuleList) and kinds
        blocks = max(kinds.values()) if several else 1  # norms and downsampling aside
        found.append((level["module"], blocks, level["num_chs"], level["reduction"]))
    return found


def diagram(name: str) -> str:
    """The network as an SVG: a box a feature level, as high as its map, as wide as its depth."""
    x, parts = 10, []
    size = timm.get_pretrained_cfg(name).input_size[-1]
    for module, blocks, channels, reduction in stages(name):
        height = max(54, 160 // max(1, reduction.bit_length() - 1))
        width = 60 + 10 * min(blocks, 12)
        top = 100 - height // 2
        lines = (module, f"{blocks} x {channels}", f"{size // reduction} px")
        parts.append(
            f'<rect x="{x}" y="{top}" width="{width}" height="{height}" rx="4" fill="#00968822" '
            'stroke="#009688"/>'
        )
        for i, line in enumerate(lines):
            parts.append(
                f'<text x="{x + width // 2}" y="{96 + 14 * (i - 1)}" text-anchor="middle" '
                f'font-size="11" fill="currentColor">{html.escape(line)}</text>'
            )
        x += width + 14
    return (
        f'<svg viewBox="0 0 {x} 200" width="{x}" role="img" aria-label="{name}" '
        f'style="max-width:100%">{"".join(parts)}</svg>'
    )


def variant_row(name: str, zoo: Mapping[str, Any]) -> str:
    """One line of the table of variants."""
    channels, size, _ = timm.get_pretrained_cfg(name).input_size
    with torch.device("meta"):
        network = ModelSpec(name, size).create(1000, channels, load=False)
    facts = cost(network, size, channels)
    timed = zoo.get(name, {})
    cells = [f"{name}", f"{size}", f"{facts.params / 1e6:.2f}", f"{facts.macs / 1e6:,.0f}"]
    for precision in ("fp32", "int8"):
        found = timed.get(precision)
        cells += [f"{found['ms']:.2f}", f"{found['efficiency']:.0%}"] if found else ["", ""]
    return "| " + " | ".join(cells) + " |"


def other_row(name: str) -> str:
    """One line of the table of networks that are no classifiers, and of necks."""
    if name in list_necks():
        return f"| `{name}` | neck | |"
    network = create_network(name)
    params = sum(p.numel() for p in network.parameters())
    return f"| `{name}` | {type(network).__name__} | {params / 1e6:.2f} |"


def verdict_lines(slug: str) -> list[str]:
    """The findings of the committed reproduction."""
    path = RESULTS / "reproductions" / f"{slug}.json"
    if not path.is_file():
        return ["Not measured yet."]
    found = read_json(path)
    lines = [f"**{found['verdict']}** ({found['hardware']}, {found['minutes']:g} minutes)", ""]
    return lines + [f"- {f['claim']}: **{f['verdict']}**. {f['why']}" for f in found["findings"]]


def reported(names: list[str]) -> list[str]:
    """The figures that the paper reports, as the family's file states them."""
    modules = {timm.model_entrypoint(name).__module__ for name in names}
    texts = [inspect.getdoc(sys.modules[module]) or "" for module in sorted(modules)]
    paragraphs = [p for text in texts for p in text.split("\n\n") if "Reported" in p]
    return [line for paragraph in paragraphs for line in (paragraph, "")]


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
    names = [name for name in names if timm.is_model(name)]
    if others:
        lines += ["| name | what | Mparam |", "| --- | --- | --- |", *map(other_row, others), ""]
    if names:
        lines += [diagram(names[0]), "", f"`{names[0]}`, one box a feature level.", ""]
        lines += [
            "| name | px | Mparam | MMACs | FP32 ms | of peak | INT8 ms | of peak |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *(variant_row(name, zoo) for name in names),
            "",
            "Counted and timed here: ONNX Runtime, batch 1 (docs/results/zoo_latency.json).",
            "",
            *reported(names),
        ]
    lines += ["## Proof", "", card.parity, ""]
    lines += [f"- `{name}`: largest relative error {error:.1e}" for name, error in cases.items()]
    lines += ["", "## What the paper claims", "", *(f"- {claim}" for claim in card.claims)]
    lines += ["", "## What was measured here", "", *verdict_lines(card.slug), ""]
    lines += [f"Repeat it: `sinet reproduce {card.slug}`", ""]
    return "\n".join(lines)


def reproductions(cards: list[Card]) -> str:
    """The table of all verdicts."""
    done = [c for c in cards if (RESULTS / "reproductions" / f"{c.slug}.json").is_file()]
    lines = ["# Reproductions", "", "Papers' claims, measured again small: what was confirmed,",
             "what was refuted, what could not be decided at this scale.", "",
             f"Measured so far: {len(done)} of {len(cards)} papers.", "",
             "| paper | claim | verdict | measured |", "| --- | --- | --- | --- |"]  # fmt: skip
    for card in cards:
        path = RESULTS / "reproductions" / f"{card.slug}.json"
        found = read_json(path)["findings"] if path.is_file() else []
        for f in found:
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
