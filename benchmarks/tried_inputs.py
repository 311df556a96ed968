"""Seeded samples for the inputs of tried networks: real photographs where a network looks at such, drawn text, a voice
made of harmonics, token numbers. What no rule fits is standard normal noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Shape = Sequence[int]
Array = npt.NDArray[Any]
Rule = Callable[[np.random.Generator, Shape], Array]

RATE_HZ = 16000
_WORDS = ("Invoice", "total", "street 2024", "number 17.50", "quick brown fox", "exit", "Paris", "open", "closed")


@cache
def _photographs() -> tuple[Image.Image, ...]:
    """The two that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    return tuple(Image.fromarray(image) for image in load_sample_images().images)


def _sizes(shape: Shape) -> tuple[int, int, int, bool]:
    """Height, width, channels, and whether these come first."""
    if len(shape) != 4:
        raise ValueError(f"an image has four axes (got {tuple(shape)})")
    first = shape[1] in (1, 3)
    height, width = shape[2:] if first else shape[1:3]
    return height, width, shape[1] if first else shape[3], first


def _laid(pixels: Callable[[int, int], Image.Image], shape: Shape) -> Array:
    """float64 of 0 to 255 in the network's own layout; each picture of the batch is another one."""
    height, width, channels, first = _sizes(shape)
    batch = []
    for _ in range(shape[0]):
        picture = pixels(height, width).convert("RGB" if channels == 3 else "L")
        values: Array = np.asarray(picture, np.float64).reshape(height, width, channels)
        batch.append(values.transpose(2, 0, 1) if first else values)
    return np.stack(batch)


def _crops(rng: np.random.Generator, shape: Shape) -> Array:
    """Square cuts of photographs, mirrored or not, at the network's size."""

    def cut(height: int, width: int) -> Image.Image:
        photograph = _photographs()[rng.integers(len(_photographs()))]
        side = int(rng.integers(96, min(photograph.size) + 1))
        left, top = (int(rng.integers(size - side + 1)) for size in photograph.size)
        part = photograph.crop((left, top, left + side, top + side)).resize((width, height))
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.integers(2) else part

    return _laid(cut, shape)


def _text(rng: np.random.Generator, shape: Shape) -> Array:
    """Dark words on light ground: one line in a flat picture, several in a tall one."""

    def drawn(height: int, width: int) -> Image.Image:
        picture = Image.new("RGB", (width, height), tuple(int(n) for n in rng.integers(200, 256, 3)))
        pen = ImageDraw.Draw(picture)
        line = min(height, 64)
        font = ImageFont.load_default(size=line * 0.6)
        for top in range(0, height - line + 1, line):
            words = " ".join(str(word) for word in rng.choice(_WORDS, 4))
            ink = tuple(int(n) for n in rng.integers(0, 90, 3))
            pen.text((int(rng.integers(2, 12)), top + line * 0.15), words, fill=ink, font=font)
        return picture

    return _laid(drawn, shape) / 127.5 - 1


def _imagenet(rng: np.random.Generator, shape: Shape) -> Array:
    axis = [1, 3, 1, 1] if _sizes(shape)[3] else [1, 1, 1, 3]
    mean, deviation = np.reshape([0.485, 0.456, 0.406], axis), np.reshape([0.229, 0.224, 0.225], axis)
    return (_crops(rng, shape) / 255 - mean) / deviation


def _audio(rng: np.random.Generator, shape: Shape) -> Array:
    """A voice-like tone: harmonics of 90 to 250 Hz under a slow envelope, and some noise; below 1."""
    seconds = np.arange(int(np.prod(shape))) / RATE_HZ
    pitch = rng.uniform(90, 250)
    tone = sum(np.sin(2 * np.pi * pitch * n * seconds + rng.uniform(0, 6)) / n for n in range(1, 12))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * seconds)
    voice: Array = 0.15 * tone * envelope + 0.005 * rng.standard_normal(seconds.size)
    return voice.reshape(tuple(shape))


def _tokens(rng: np.random.Generator, shape: Shape) -> Array:
    """Words of BERT's vocabulary between its marks of beginning and end."""
    ids: Array = rng.integers(1996, 29612, tuple(shape))
    ids[..., 0], ids[..., -1] = 101, 102
    return ids


RULES: dict[str, Rule] = {
    "normal": lambda rng, shape: rng.standard_normal(tuple(shape)),
    "raw": _crops,
    "unit": lambda rng, shape: _crops(rng, shape) / 255,
    "signed": lambda rng, shape: _crops(rng, shape) / 127.5 - 1,
    "imagenet": _imagenet,
    "caffe": lambda rng, shape: _crops(rng, shape) - 117.0,
    "text": _text,
    "audio": _audio,
    "state": lambda rng, shape: 0.1 * rng.standard_normal(tuple(shape)),
    "tokens": _tokens,
    "few": lambda rng, shape: rng.integers(1, 4, tuple(shape)),
    "bytes": lambda rng, shape: rng.integers(0, 256, tuple(shape)),
    "ones": lambda rng, shape: np.ones(tuple(shape)),
    "zeros": lambda rng, shape: np.zeros(tuple(shape)),
    "rate16k": lambda rng, shape: np.full(tuple(shape), RATE_HZ),
}


def samples(rule: str, shape: Shape, dtype: str, count: int, seed: int) -> Array:
    """dtype[count, *shape]: so many samples, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(RULES[rule](rng, shape)).astype(dtype) for _ in range(count)])
