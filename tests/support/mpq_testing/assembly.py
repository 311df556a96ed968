"""Loops in the assembly that LLVM made of a kernel for x86."""

from __future__ import annotations

import re


def inner_loops(assembly: str) -> list[list[str]]:
    """Vector instructions of every loop without branches inside: a label, and a jump back to it.

    Those that are marked as of the VEX form stand there without the mark.
    """
    found: list[list[str]] = []
    label, body = "", list[str]()
    for line in map(str.strip, assembly.splitlines()):
        if match := re.fullmatch(r"(\.LBB\w+):.*", line):
            label, body = match[1], []
        elif line.startswith(("v", "{vex}")):
            body.append(line.removeprefix("{vex}").lstrip())
        elif label and re.match(rf"j\w+\s+{re.escape(label)}$", line):
            found.append(list(body))
    return found
