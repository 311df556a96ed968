"""Loops of assembly that static analysis is asked about."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

JUMP = r"(b\.\w+|cbn?z|tbn?z)"
ASSEMBLY = """
	movi	v9.2d, #0
.LBB0_1:
	mov	x1, xzr
.LBB0_2: // sums of a block
	movi	v0.2d, #0
.Ltmp1:
.LBB0_3:
	ldr	h1, [x0], #2
.Ltmp2:
	fmla	v0.8h, v2.8h, v1.h[0]
	subs	x2, x2, #1
	b.ne	.LBB0_3
	fcvtl	v3.4s, v0.4h
	cbz	x5, .LBB0_9
	b.ne	.LBB0_2
	b.ne	.LBB0_1
.LBB0_9:
	ret
"""


@pytest.fixture(scope="module")
def mca() -> Iterator[Any]:
    folder = str(Path(__file__).parents[3] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("mca")
    sys.path.remove(folder)


def test_the_loop_around_is_the_next_one_without_the_inner(mca: Any) -> None:
    inner = mca.inner_loop(ASSEMBLY, lambda body: sum("fmla" in text for text in body), JUMP, "//")
    assert [text.split()[0] for text in inner] == ["ldr", "fmla", "subs", "b.ne"]
    around = mca.loop_around(ASSEMBLY, inner, JUMP, "//")
    assert [text.split()[0] for text in around] == ["movi", "fcvtl", "cbz", "b.ne"]
