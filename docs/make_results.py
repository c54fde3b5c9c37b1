"""Write the measured results of docs/results into README.md and docs/results.md."""

from __future__ import annotations

import re
from pathlib import Path

from sinet.errors import SinetError
from sinet.files import write_text
from sinet.measurement.results import render_table

DOCS = Path(__file__).parent


def fill(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name:begin -->` and `<!-- name:end -->` in a file."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(old):
        raise SinetError(f"{path} has no {begin} ... {end}; put the two markers back")
    write_text(path, pattern.sub(lambda _: f"{begin}\n\n{text.strip()}\n\n{end}", old, count=1))


def main() -> None:
    """Fill both files."""
    folder = DOCS / "results"
    measured = any(folder.glob("*.json"))
    table = render_table(folder) if measured else "Nothing has been measured and committed yet."
    for path in (DOCS.parent / "README.md", DOCS / "results.md"):
        fill(path, "results", table)


if __name__ == "__main__":
    main()
