"""What the documents say of the tree is so: paths and links lead somewhere, code that is shown stands in its file."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = (ROOT, ROOT / "tvm_mpq")
"""Where the documents' paths begin; architecture.md names rooms as their code does, without `tvm_mpq/`."""

RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))
"""Decisions speak of the tree as it was; only their links must lead somewhere."""

GUIDES = [ROOT / "CONTRIBUTING.md", *sorted(set((ROOT / "docs").rglob("*.md")) - set(RECORDS))]
FOR_USERS = [ROOT / "README.md", ROOT / "CHANGELOG.md"]

SITE_NEEDS = ("mkdocs", "material", "mkdocstrings_handlers", "mkdocs_click", "griffe")

QUOTES = ROOT / "docs" / "extending.md"


def paths_named(text: str) -> list[str]:
    """Paths in backquotes: they end in a slash, or in the suffix of a file of this repository."""
    return re.findall(r"`([\w./<>*-]+(?:/|\.(?:py|md|toml|txt|c|j2)))`", text)


def exists(path: str) -> bool:
    """Whether it is in the tree; `<module>` stands for any name."""
    pattern = re.sub(r"<\w+>", "*", path).rstrip("/")
    return any(next(home.glob(pattern), None) is not None for home in HOMES)


def links(text: str) -> list[str]:
    """Targets of links to files, without their anchors."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    found = re.findall(r"\]\(([^)#]*)(?:#[\w-]*)?\)", prose)
    return [target for target in found if target and "://" not in target]


def quotes(text: str) -> list[tuple[str, str]]:
    """(path, code) of each block of Python that follows a line with nothing but its file."""
    return re.findall(r"^`([^`\n]+)`:\n\n```python\n(.*?)^```$", text, re.M | re.S)


def missing_part(code: str, source: str) -> str | None:
    """The first part of `code` that is not in `source` behind the ones before it; lines of `...` separate parts."""
    end = 0
    for part in re.split(r"^\.\.\.\n", code, flags=re.M):
        start = source.find(part, end)
        if start < 0:
            return part
        end = start + len(part)
    return None


@pytest.mark.parametrize("document", GUIDES, ids=lambda p: p.name)
def test_every_path_named_is_there(document: Path) -> None:
    wrong = [path for path in paths_named(document.read_text(encoding="utf-8")) if not exists(path)]
    assert not wrong, f"{document.name} names what is not in the tree: {wrong}"


@pytest.mark.parametrize("document", [*GUIDES, *FOR_USERS, *RECORDS], ids=lambda p: p.name)
def test_every_link_leads_to_a_file(document: Path) -> None:
    targets = links(document.read_text(encoding="utf-8"))
    wrong = [target for target in targets if not (document.parent / target).exists()]
    assert not wrong, f"{document.name} has links that lead nowhere: {wrong}"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in SITE_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the site needs {', '.join(missing)}: pip install 'tvm-mpq[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert "check_samples" in python and "**options" not in python
    assert ">Parameters</h" not in python, "a docstring is shown as if it had no sections"
    commands = (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "--max-drop" in commands and "tvm-mpq db merge" in commands and "Sentinel" not in commands
    elsewhere = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="?https?://[^ >]*', python)
    assert not elsewhere, "pages load from elsewhere"


def test_records_are_numbered_in_order() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("path, code", quotes(QUOTES.read_text(encoding="utf-8")))
def test_code_shown_stands_in_its_file(path: str, code: str) -> None:
    part = missing_part(code, (ROOT / path).read_text(encoding="utf-8"))
    assert part is None, f"{QUOTES.name} shows what {path} does not hold there:\n{part}"


def test_each_block_of_code_is_compared() -> None:
    text = QUOTES.read_text(encoding="utf-8")
    assert len(quotes(text)) == text.count("```python") > 5


def test_what_is_wrong_is_found() -> None:
    assert paths_named("see `a/b.py`, `rooms/`, `let`, `w4a8`, `model.so` and `x.md`") == ["a/b.py", "rooms/", "x.md"]
    assert not exists("tvm_mpq/kernels/tir.py") and exists("tests/unit/<room>/test_<subject>.py") and exists("kernels/")
    assert links("[a](b.md#c) [d](https://e) [f](#g)\n```\nx[0](y)\n```\n") == ["b.md"]
    source = "a = 1\n\nb = 2\nc = 3\n"
    assert missing_part("a = 1\n\nb = 2\n...\nc = 3\n", source) is None
    assert missing_part("a = 1\nb = 2\n", source) == "a = 1\nb = 2\n"
    assert missing_part("c = 3\n...\na = 1\n", source) == "a = 1\n"
