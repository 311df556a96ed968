"""Weights quantized elsewhere: what is refused, files, and that they are taken as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingFileError, OutputError
from tvm_mpq.numerics.affine import weight_range
from tvm_mpq.numerics.constants import conv_constants
from tvm_mpq.numerics.conv import fold_bias
from tvm_mpq.numerics.operands import Operands
from tvm_mpq.numerics.weight_codes import QuantizedWeight, WeightCodes
from tvm_mpq.schema import Conv2dWorkload, TensorQuant

CONV = Conv2dWorkload(1, 5, 5, 3, 4, (3, 3))
SHAPE = (4, 3, 3, 3)


def weight(rng: np.random.Generator, bits: int, shape: tuple[int, ...] = SHAPE) -> QuantizedWeight:
    low, high = weight_range(bits)
    codes = rng.integers(low, high + 1, shape).astype(np.int8)
    if bits == 1:
        codes[codes == 0] = 1
    codes.reshape(len(codes), -1)[:, 0] = high  # so that max |codes * scale| is high * scale
    return QuantizedWeight(codes, rng.uniform(0.01, 0.1, len(codes)).astype(np.float32), bits)


def operands(rng: np.random.Generator, **options: object) -> Operands:
    w = rng.standard_normal(SHAPE).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    quants = (TensorQuant(8, 0.02, 7),), TensorQuant(8, 0.05, 100)
    return dataclasses.replace(Operands(*quants, w, bias), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", range(1, 9))
def test_constants_hold_the_codes_that_were_given(rng: np.random.Generator, bits: int) -> None:
    given = weight(rng, bits)
    found = conv_constants(CONV, bits, 8, operands(rng, codes=given))
    np.testing.assert_array_equal(found.weight, given.codes)
    wanted = (np.float64(0.02) * given.scales.astype(np.float64) / 0.05).astype(np.float32)
    np.testing.assert_allclose(found.multiplier, wanted, rtol=2**-23)


def test_codes_are_what_rounding_their_real_values_gives(rng: np.random.Generator) -> None:
    """The other way to the same integers: 8 bit rounding to nearest of code * scale is exact."""
    given = weight(rng, 8)
    base = operands(rng)
    real = given.codes * given.scales[:, None, None, None]
    one = conv_constants(CONV, 8, 8, dataclasses.replace(base, codes=given))
    other = conv_constants(CONV, 8, 8, dataclasses.replace(base, weight=real.astype(np.float32)))
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_allclose(one.multiplier, other.multiplier, rtol=2**-22)


def test_a_bias_that_comes_with_codes_takes_the_place_of_the_operators_own(rng: np.random.Generator) -> None:
    given = dataclasses.replace(weight(rng, 4), bias=rng.standard_normal(4).astype(np.float32))
    found = conv_constants(CONV, 4, 8, operands(rng, codes=given))
    assert given.bias is not None
    np.testing.assert_array_equal(found.bias, fold_bias(given.bias, 0.02, given.scales))
    without = dataclasses.replace(given, bias=None)
    assert (conv_constants(CONV, 4, 8, operands(rng, codes=without)).bias != found.bias).any()
    assert without.digest != given.digest


def test_a_kernel_of_more_bits_takes_the_codes_of_fewer(rng: np.random.Generator) -> None:
    given = weight(rng, 3)
    found = conv_constants(CONV, 8, 8, operands(rng, codes=given, weight_bits=3))
    np.testing.assert_array_equal(found.weight, given.codes)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"codes": np.zeros(SHAPE, np.int16)}, "int8"),
        ({"scales": np.ones(4, np.float64)}, "float32"),
        ({"scales": np.ones(3, np.float32)}, "one scale per output channel"),
        ({"scales": np.array([1, 1, 0, 1], np.float32)}, "above 0"),
        ({"scales": np.array([1, 1, np.inf, 1], np.float32)}, "finite"),
        ({"codes": np.full(SHAPE, 8, np.int8)}, r"\[-7, 7\] \(got 8 to 8\)"),
        ({"codes": np.full(SHAPE, -8, np.int8)}, r"\[-7, 7\]"),
        ({"codes": np.zeros(SHAPE, np.int8), "bits": 1}, "-1 or \\+1"),
        ({"bits": 9}, "bits"),
        ({"bias": np.zeros(4, np.float64)}, "float32"),
        ({"bias": np.zeros(3, np.float32)}, r"float32\[4\] \(got float32\[3\]\)"),
        ({"bias": np.array([0, 0, 0, np.nan], np.float32)}, "finite"),
    ],
)
def test_what_is_no_quantized_weight_is_refused(rng: np.random.Generator, change: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidValueError, match=text):
        dataclasses.replace(weight(rng, 4), **change)  # type: ignore[arg-type]


def test_codes_must_fit_their_operator(rng: np.random.Generator) -> None:
    with pytest.raises(InvalidValueError, match="of 8 bits"):
        conv_constants(CONV, 8, 8, operands(rng, codes=weight(rng, 4)))
    with pytest.raises(InvalidValueError, match="shape"):
        conv_constants(CONV, 4, 8, operands(rng, codes=weight(rng, 4, (4, 1, 1, 3))))
    small = dataclasses.replace(weight(rng, 4), scales=np.full(4, 1e-12, np.float32))
    with pytest.raises(InvalidValueError, match="bias of output channel 0 needs a weight scale"):
        conv_constants(CONV, 4, 8, operands(rng, codes=small))


def test_files(rng: np.random.Generator, tmp_path: Path) -> None:
    biased = dataclasses.replace(weight(rng, 4), bias=np.arange(4, dtype=np.float32))
    codes = WeightCodes({("a/b", 4): biased, ("a/b", 8): weight(rng, 8), ("größe", 1): weight(rng, 1)})
    codes.save(tmp_path / "codes.npz")
    back = WeightCodes.load(tmp_path / "codes.npz")
    assert set(back) == set(codes) and back.digest == codes.digest
    for key, one in codes.items():
        np.testing.assert_array_equal(back[key].codes, one.codes)
        np.testing.assert_array_equal(back[key].scales, one.scales)
        assert one.bias is None or np.array_equal(back[key].bias, one.bias)
        assert (back[key].bias is None) == (one.bias is None)
    WeightCodes().save(tmp_path / "none.npz")
    assert len(WeightCodes.load(tmp_path / "none.npz")) == 0


def test_bad_files(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(MissingFileError):
        WeightCodes.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", operators=np.array([{"a": 1}], dtype=object), bits=np.array([8]))
    np.save(tmp_path / "bare.npy", np.zeros(3))
    for name in ("text.npz", "other.npz", "pickled.npz", "bare.npy"):
        with pytest.raises(FileFormatError):
            WeightCodes.load(tmp_path / name)
    WeightCodes({("a/b", 4): weight(rng, 4)}).save(tmp_path / "cut.npz")
    with np.load(tmp_path / "cut.npz") as archive:
        np.savez(tmp_path / "cut.npz", **{**archive, "codes0": archive["codes0"][:1]})
    with pytest.raises(FileFormatError, match=r"cut\.npz.*'a/b'.*one scale per output channel"):
        WeightCodes.load(tmp_path / "cut.npz")
    with pytest.raises(OutputError):
        WeightCodes().save(tmp_path / "no" / "folder.npz")


def test_the_digest_tells_contents_apart(rng: np.random.Generator) -> None:
    one = weight(rng, 4)
    other = dataclasses.replace(one, codes=-one.codes)
    assert WeightCodes({"a": one}).digest != WeightCodes({"a": other}).digest != WeightCodes({"b": other}).digest
    assert one.digest == dataclasses.replace(one, codes=one.codes.copy()).digest
