"""llvm-mca on the loops of compiled kernels: what the static analyses of ARM and x86 share."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

ITERATIONS = 100
LEAST_LLVM = 19
"""Earlier ones lack models of cores that are asked."""


def inner_loop(assembly: str, weight: Callable[[list[str]], int], jump: str, comment: str) -> list[str]:
    """Instructions of the innermost loop of most `weight`.

    jump: of conditional jumps, as a regular expression; comment: what begins one.
    """
    best: list[str] = []
    label, body = "", list[str]()
    for line in assembly.splitlines():
        text = line.split(comment)[0].strip()
        if match := re.fullmatch(r"(\.L\w+):", text):
            if not match[1].startswith(".Ltmp"):
                label, body = match[1], []
        elif text and not text.startswith("."):
            body.append(text)
            if label and re.match(rf"{jump}\s.*{re.escape(label)}$", text):
                best = max(best, list(body), key=weight)
    return best


def loop_around(assembly: str, inner: list[str], jump: str, comment: str) -> list[str]:
    """Instructions of the loop around `inner`, a body that `inner_loop` gave, without those of that."""
    lines = [text for line in assembly.splitlines() if (text := line.split(comment)[0].strip())]
    lines = [t for t in lines if not t.startswith(".") or re.fullmatch(r"\.L(?!tmp)\w+:", t)]
    first = next(i for i in range(len(lines)) if lines[i : i + len(inner)] == inner)
    last = first + len(inner)
    for end in range(last, len(lines)):
        match = re.match(rf"{jump}\s.*?(\.L\w+)$", lines[end])
        if match and f"{match.groups()[-1]}:" in lines[:first]:
            body = lines[lines.index(f"{match.groups()[-1]}:") : first] + lines[last : end + 1]
            return [text for text in body if not text.startswith(".")]
    return []


def cycles(program: str, triple: str, core: str, body: list[str]) -> float:
    """Of one pass. Raises CalledProcessError when llvm-mca refuses an instruction."""
    command = [program, f"-mtriple={triple}", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    done = subprocess.run(command, input="\n".join(body) + "\n", capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert found is not None
    return int(found[1]) / ITERATIONS


def llvm_version(program: str) -> int:
    """The major version of the program's LLVM."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"LLVM version (\d+)", done.stdout)
    return int(found[1]) if found else 0


def run(program: str, table: Callable[[str, int], None]) -> str | None:
    """`table` with a program and its version; the reason where the program cannot be used."""
    try:
        version = llvm_version(program)
        if version < LEAST_LLVM:
            return f"{program} is of LLVM {version}; {LEAST_LLVM} or later has the cores' models"
        table(program, version)
    except OSError as e:
        return f"cannot start {program!r} ({e.strerror}); install Debian package llvm-19"
    except subprocess.CalledProcessError as e:
        return f"{e.stderr.strip().splitlines()[0]}; a newer LLVM may know this instruction"
    return None
