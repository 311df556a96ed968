"""What all HTML pages have in common: their templates, and how they are written."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tvm_mpq.errors import OutputError

TEMPLATES = Environment(
    loader=PackageLoader("tvm_mpq.report"),
    autoescape=True,  # whatever a file is called: the drawing is one of them
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def write_page(page: str, path: str | Path) -> None:
    """Write a whole page. Raises OutputError if the file cannot be written."""
    try:
        # A name may hold a lone surrogate (undecodable file names do), which UTF-8 cannot.
        Path(path).write_text(page, encoding="utf-8", errors="replace")
    except OSError as e:
        raise OutputError(f"cannot write page {str(path)!r}: {e.strerror}") from e
