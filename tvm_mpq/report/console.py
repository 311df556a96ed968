"""Standard output as reports use it: tables that fit, facts, notes.

On a terminal, or where `COLUMNS` says how wide, tables leave out columns in the order that their report states and fold
long cells; what was left out is named below. In a pipe or file without `COLUMNS` every row is one line and whole, and
`grep` finds it. Frames and colours only where the terminal has them; a terminal without Unicode gets ASCII frames.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvm_mpq.report.text import one_line

UNLIMITED = 100_000
"""Columns of output that is not a terminal: nothing is folded."""

FOLDED = 24
"""Columns to which words are folded before a whole column is left out; numbers are never folded."""


def standard_output() -> Console:
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(markup=False, highlight=False, emoji=False, width=UNLIMITED)
    return console


def print_table(
    console: Console,
    headers: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    right: Collection[str] = (),
    drop: Sequence[str] = (),
    emphasized: Collection[int] = (),
) -> None:
    """Print rows, no wider than the console.

    right: headers over numbers. drop: headers to leave out where there is no room, the first of them first.
    emphasized: which rows are bold.
    """
    cells = [[cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in row] for row in rows]
    framed = console.is_terminal
    least = {}
    for i, header in enumerate(headers):
        width = max(cell_len(header), *(row[i].cell_len for row in cells), 0)
        least[header] = width if header in right else min(width, FOLDED)
    left_out: list[str] = []
    for header in (name for name in drop if name in least):
        if sum(least.values()) + (3 * len(least) + 1 if framed else len(least) - 1) <= console.width:
            break
        left_out.append(header)
        del least[header]
    table = Table(header_style="bold", box=box.ROUNDED if framed else None, pad_edge=framed)
    for header in least:
        number = header in right
        table.add_column(header, justify="right" if number else "left", overflow="fold", no_wrap=number)
    kept = [i for i, header in enumerate(headers) if header in least]
    for line, row in enumerate(cells):
        table.add_row(*(row[i] for i in kept), style="bold" if line in emphasized else None)
    console.print(table)
    if left_out:
        console.print(Text(f"no room for: {', '.join(left_out)} (a wider window, a pipe and --json have them)", "dim"))


def print_indented(console: Console, head: Text, body: str | Text) -> None:
    """`head` and `body` on one line; where that is too long, further lines begin below the body's first word."""
    if head.cell_len + cell_len(str(body)) < console.width:
        console.print(Text.assemble(head, " ", body))
        return
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(head, body)
    console.print(grid)


def print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Aligned `name: value` lines."""
    found = [(name, one_line(value)) for name, value in facts if value]
    width = max((len(name) for name, _ in found), default=0) + 1
    for name, value in found:
        print_indented(console, Text(f"{name + ':':<{width}}", "bold"), value)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        print_indented(console, Text("note:", "yellow"), one_line(note))
