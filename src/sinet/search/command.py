"""From the words of a command line to one search."""

from __future__ import annotations

from sinet.errors import UsageError
from sinet.search.architecture import Found, search_sinet
from sinet.search.budget import Budget
from sinet.search.cell_search import search_cells
from sinet.search.session import Request, Say
from sinet.search.spaces import check_space


def run_search(
    request: Request, space: str, budget: str, *, cells: bool, by: str, say: Say
) -> Found:
    """Search one of the spaces.

    Args:
        request: what is asked.
        space: of `sinet.search.spaces.SPACES`.
        budget: as `Budget.parse` reads it; "" = none, which only cells do without.
        cells: stack the found cells for the images' own size.
        by: strategy of the search for cells.
        say: told of the progress.

    Raises:
        UsageError: an unknown space, or an option that the space has no use for.
    """
    limits = Budget.parse(budget) if budget else None
    if check_space(space) == "nasnet":
        return search_cells(request, limits, by, cells, say)
    if cells or by != "ppo":
        raise UsageError("--cells and --by are for --space nasnet; leave them out, or name it")
    if limits is None:
        raise UsageError(
            "a search over SiNets wants to know what the network may cost; give --budget, such as "
            "8ms or 4MB"
        )
    return search_sinet(request, limits, say)
