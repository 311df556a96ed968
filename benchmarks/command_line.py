"""What the command lines here share: names chosen from a list, and messages on standard error."""

from __future__ import annotations

import argparse
import sys


def chosen(parser: argparse.ArgumentParser, text: str, known: tuple[str, ...]) -> list[str]:
    """The names in `text`, by commas, or all that are known; another one ends the program with its usage."""
    names = list(known) if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")
    return names


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
