"""The table of scores on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monosemy.report.run import Row, without_failed

TABLE_WIDTH = 120  # of a terminal narrower than that, the lines wrap; numbers are never cut
COLUMNS = {
    "member": "d",
    "variant": "",
    "width": "d",
    "l1": "g",
    "k": "d",
    "noise": "g",
    "seed": "d",
    "l0": ".1f",
    "fvu": ".3f",
    "fvu_sites": ".3f",
    "dead": "d",
    "mmcs_truth": ".3f",
    "mcc_truth": ".3f",
    "f1": ".3f",
    "ece": ".4f",
    "ce_recovered": ".3f",
    "kl": ".3f",
    "kl_sites": ".3f",
    "mmcs_with_larger": ".3f",
    "mmcs_other_seed": ".3f",
    "failed": "",
}


def print_scores(rows: Sequence[Row], chosen: int | None = None, where: str = "") -> None:
    """Print one line a member, undefined scores blank, columns that are blank throughout left out. Of a member whose
    training failed only what it is, and at which step. `where` names the sites, in the order of what is by site."""
    from rich.console import Console
    from rich.table import Table

    rows = without_failed(rows)
    columns = {name: form for name, form in COLUMNS.items() if any(row.get(name) is not None for row in rows)}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, form in columns.items():
        table.add_column(name, justify="right" if form else "left", no_wrap=True)
    for row in rows:
        cells = [_written(row.get(name), form) for name, form in columns.items()]
        table.add_row(*cells, style="bold green" if row["member"] == chosen else None)
    Console(width=max(TABLE_WIDTH, Console().width)).print(table)
    if where:
        print(f"\n{where}")


def _written(value: Any, form: str) -> str:
    """A score as text, undefined blank; of several sites one beside the other."""
    if isinstance(value, list):
        return " / ".join(_written(each, form) or "–" for each in value)
    return "" if value is None else format(value, form)
