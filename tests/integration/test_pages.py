"""Every block of code on the pages for users runs, from top to bottom, one page in one interpreter and one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN_TO_RUN = [
    DOCS / "index.md",
    DOCS / "glossary.md",
    DOCS / "troubleshooting.md",
    *sorted(page for folder in ("tutorial", "explain", "reference") for page in (DOCS / folder).glob("*.md")),
]


SLOW = ("first-network", "transformer", "fine-tuning", "detector", "compile-script", "raspberry-pi")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def script(text: str) -> str:
    """A page as a program: Python stands as it is, commands are run by a shell that stops at the first failure."""
    parts = ["import subprocess\n"]
    for language, code in blocks(text):
        assert language in ("python", "sh"), f"a block in {language!r} cannot be run; write python or sh"
        parts.append(code if language == "python" else f"subprocess.run(['bash', '-ec', {code!r}], check=True)\n")
    return "\n".join(parts)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=[pytest.mark.slow] if p.stem in SLOW else [], id=p.stem)
        for p in WRITTEN_TO_RUN
        if blocks(p.read_text("utf-8"))
    ],
)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    for package in re.findall(r"^(?:from|import) (torch|sklearn)\b", page.read_text(encoding="utf-8"), re.M):
        pytest.importorskip(package)
    command = tmp_path / "bin" / "tvm-mpq"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tvm_mpq.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "page.py").write_text(script(page.read_text(encoding="utf-8")))
    found = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]


def test_a_block_that_cannot_run_is_found() -> None:
    assert script("```sh\nls\n```\n\n```python\na = 1\n```\n").splitlines()[-1] == "a = 1"
    with pytest.raises(AssertionError, match="'json' cannot be run"):
        script("```json\n{}\n```\n")
