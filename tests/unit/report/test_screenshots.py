"""The page in a real browser: nothing is wider than the screen, on a desk or a phone, and colours are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_mpq.report import write_report
from tvm_mpq.report.pictures.palette import shade

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed: apt install chromium")


def browse(*options: str) -> str:
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


WIDTHS = (1200, 400)

# Chromium has no windows narrower than 500 pixels: a phone is a frame within one, and so is the desk beside it.
FRAMES = (
    '<body style="margin:0;white-space:nowrap">'
    + "".join(f'<iframe src="report.html" style="width:{w}px;height:5000px;border:0"></iframe>' for w in WIDTHS)
    + """<script>onload = () => {
  document.title = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const drawn = [...page.querySelectorAll("svg, .bars, .strip")].map(x => x.getBoundingClientRect());
    const right = Math.max(...drawn.map(x => x.right)), letters = [...page.querySelectorAll("svg text")].map(
      x => x.getBoundingClientRect().height);
    return [root.clientWidth, root.scrollWidth, right, Math.min(...letters), drawn.length].join(" ");
  }).join(", ");
}</script>"""
)


def test_the_page_fits_the_screen(report: dict[str, Any], tmp_path: Path) -> None:
    """A browser starts for seconds: one for what is measured, one for the picture, both screens beside each other."""
    from PIL import Image

    report["budget"] = {"latency_ratio": 0.9}
    write_report(report, tmp_path / "report.html")
    (tmp_path / "frames.html").write_text(FRAMES, encoding="utf-8")
    address = f"file://{tmp_path / 'frames.html'}"
    shown = browse("--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom", address)
    title = re.search(r"<title>(.*?)</title>", shown)
    assert title, shown[-500:]
    for width, found in zip(WIDTHS, title[1].split(", "), strict=True):
        frame_width, page_width, right, letters, drawn = map(float, found.split())
        assert frame_width == width
        assert page_width <= width and right <= width
        assert letters >= 11, "pixels: numbers on axes can be read"
        assert drawn == 6, "two drawings, three groups of bars and the strip"

    picture = tmp_path / "page.png"
    browse(f"--screenshot={picture}", f"--window-size={sum(WIDTHS)},5000", address)
    wanted = {tuple(int(shade(bits).background[i : i + 2], 16) for i in (1, 3, 5)) for bits in (4, 8)}
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    for screen in (pixels[:, : WIDTHS[0]], pixels[:, WIDTHS[0] :]):
        colours = {tuple(int(c) for c in rgb) for rgb in np.unique(screen.reshape(-1, 3), axis=0)}
        assert wanted <= colours, "bars and cells are coloured"
