"""Calibration data: what is taken, how it is cut into runs. What is refused: tests/integration/test_bad_input.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvm_mpq.calibrate.data import SYNTHETIC_SAMPLES, load_dataset
from tvm_mpq.errors import DataError

ONE = {"x": ((1, 2, 3), "float32")}
TWO = {"x": ((1, 2), "float32"), "mask": ((1, 2), "int64")}
BATCH = {"x": ((4, 2), "float32")}


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_array_mapping_and_archive_are_the_same(tmp_path: Path) -> None:
    x, labels = numbered(5, 2, 3), np.arange(5)
    np.savez(tmp_path / "d.npz", x=x, labels=labels)
    assert load_dataset(x, ONE).labels is None
    found = [
        load_dataset(source, ONE)
        for source in ({"x": x, "labels": labels}, tmp_path / "d.npz", str(tmp_path / "d.npz"))
    ]
    for data in found:
        assert len(data) == 5 and not data.synthetic
        np.testing.assert_array_equal(data.arrays["x"], x)
        np.testing.assert_array_equal(data.labels, labels)
    assert len({d.fingerprint for d in found}) == 1


def test_fingerprint_sees_values_and_labels() -> None:
    x = numbered(5, 2, 3)
    other = x.copy()
    other[4, 1, 2] += 1
    prints = [
        load_dataset(source, ONE).fingerprint
        for source in (x, other, {"x": x, "labels": np.zeros(5, int)}, {"x": x, "labels": np.ones(5, int)}, x[:4])
    ]
    assert len(set(prints)) == 5


def test_samples_keep_the_batch_axis() -> None:
    data = load_dataset(numbered(5, 2, 3), ONE)
    assert [s["x"].shape for s in data] == [(1, 2, 3)] * 5
    np.testing.assert_array_equal(data.sample(3)["x"][0], numbered(5, 2, 3)[3])


def test_an_incomplete_last_batch_is_left_out() -> None:
    data = load_dataset({"x": numbered(11, 2), "labels": np.arange(11)}, BATCH)
    assert len(data) == 2
    np.testing.assert_array_equal(data.sample(1)["x"], numbered(11, 2)[4:8])


def test_head_is_spread_over_sorted_data() -> None:
    data = load_dataset({"x": numbered(100, 2, 3), "labels": np.arange(100)}, ONE).head(5)
    assert data.labels.tolist() == [0, 24, 49, 74, 99]
    np.testing.assert_array_equal(data.arrays["x"], numbered(100, 2, 3)[[0, 24, 49, 74, 99]])
    assert len(data.head(9)) == 5


def test_head_of_batches_takes_whole_ones() -> None:
    data = load_dataset({"x": numbered(16, 2), "labels": np.arange(16)}, BATCH).head(2)
    assert data.labels.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]


def test_synthetic_data_are_the_same_every_time() -> None:
    first, second = load_dataset(None, TWO), load_dataset(None, TWO)
    assert first.synthetic and len(first) == SYNTHETIC_SAMPLES
    assert first.fingerprint == second.fingerprint
    assert first.arrays["x"].dtype == np.float32 and first.arrays["mask"].dtype == np.int64
    assert abs(float(load_dataset(None, {"x": ((1, 1000), "float32")}).arrays["x"].mean())) < 0.05


def test_several_inputs_need_names_and_equal_lengths() -> None:
    with pytest.raises(DataError, match="mapping"):
        load_dataset(numbered(3, 2), TWO)
    with pytest.raises(DataError, match="same number of samples"):
        load_dataset({"x": numbered(3, 2), "mask": np.zeros((4, 2), np.int64)}, TWO)


def test_less_than_a_batch() -> None:
    with pytest.raises(DataError, match="one batch of 4 samples"):
        load_dataset(numbered(3, 2), BATCH)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_bad_sample_is_named(value: float) -> None:
    x = numbered(5, 2, 3)
    x[3, 1, 1] = x[4, 0, 0] = value
    with pytest.raises(DataError, match="'x' holds NaN or infinity in sample 3"):
        load_dataset(x, ONE)
