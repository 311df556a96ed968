"""Calibration data: what is taken, how it is cut into runs. What is refused: tests/integration/test_bad_input.py."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_mpq.calibrate.data import FEWEST, SYNTHETIC_SAMPLES, doubt, load_dataset, parted
from tvm_mpq.errors import DataError, FileFormatError

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


@pytest.mark.parametrize(
    ("images", "said"),
    [(np.zeros((20, 2, 3)), "all 20 .* the same"), (np.arange(18).reshape(3, 2, 3), "only 3"), (None, None)],
)
def test_data_too_poor_to_calibrate_on_are_named(images: np.ndarray | None, said: str | None) -> None:
    x = np.random.default_rng(0).normal(size=(8, 2, 3)) if images is None else images
    found = doubt(load_dataset(x.astype(np.float32), ONE))
    assert found is None if said is None else re.search(said, str(found))


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


@given(runs=st.integers(1, 300), count=st.integers(1, 200), batch=st.sampled_from([1, 4]))
def test_nothing_judges_what_it_was_rounded_on(runs: int, count: int, batch: int) -> None:
    rows = runs * batch
    inputs = {"x": ((batch, 2), "float32")}
    parts = parted(load_dataset({"x": numbered(rows, 2), "labels": np.arange(rows)}, inputs), count)
    rounded, judged = set(parts.rounded.labels.tolist()), set(parts.judged.labels.tolist())
    assert rounded | judged <= set(range(rows)) and len(parts.rounded) <= count
    for part in (parts.rounded, parts.judged):
        np.testing.assert_array_equal(part.arrays["x"], numbered(rows, 2)[part.labels])
    if runs < 2 * FEWEST:
        assert judged == set(range(rows))  # too few for either
    else:
        assert len(parts.rounded) == min(count, runs // 2) and not rounded & judged
        assert rounded | judged == set(range(rows))


def test_made_up_data_serve_for_both() -> None:
    data = load_dataset(None, ONE)
    parts = parted(data, 4)
    assert len(data) >= 2 * FEWEST and parts.judged is data and len(parts.rounded) == 4 and parts.rounded.synthetic


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


DIFFERENT = {"x": ((4, 2), "float32"), "p": ((1, 3), "float32"), "t": ((), "int64")}
"""A batch of four, an input of one row, and one without axes."""


def rows_of(count: int, **others: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": numbered(count, 2), "p": numbered(count // 4, 3), "t": np.arange(count // 4), **others}


def test_inputs_of_different_first_axes_are_cut_each_by_its_own() -> None:
    data = load_dataset({**rows_of(13), "labels": np.arange(13)}, DIFFERENT)
    assert len(data) == 3 and data.whole == {"p", "t"}
    sample = data.sample(2)
    np.testing.assert_array_equal(sample["x"], numbered(13, 2)[8:12])
    np.testing.assert_array_equal(sample["p"], numbered(3, 3)[2:3])
    assert sample["t"].shape == () and sample["t"].dtype == np.int64 and sample["t"] == 2
    chosen = data.runs(np.array([2, 0]))
    assert [int(s["t"]) for s in chosen] == [2, 0] and chosen.labels.tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    np.testing.assert_array_equal(chosen.sample(0)["p"], sample["p"])


def test_whole_inputs_a_run_are_the_same_data() -> None:
    """An axis added in front: also to the input that has the batch."""
    by_rows = load_dataset(rows_of(12), DIFFERENT)
    whole = load_dataset({"x": numbered(3, 4, 2), "p": numbered(3, 1, 3), "t": np.arange(3)}, DIFFERENT)
    assert whole.fingerprint == by_rows.fingerprint and len(whole) == 3
    for a, b in zip(whole, by_rows, strict=True):
        assert all(np.array_equal(a[n], b[n]) and a[n].shape == b[n].shape for n in DIFFERENT)


def test_a_state_of_two_rows_beside_a_batch_of_one() -> None:
    inputs = {"x": ((1, 5), "float32"), "state": ((2, 1, 3), "float32"), "rate": ((), "int64")}
    data = load_dataset({"x": numbered(4, 5), "state": numbered(4, 2, 1, 3), "rate": np.full(4, 16000)}, inputs)
    assert len(data) == 4 and data.sample(1)["state"].shape == (2, 1, 3)
    again = load_dataset({"x": numbered(4, 5), "state": numbered(8, 1, 3), "rate": np.full(4, 16000)}, inputs)
    assert again.fingerprint == data.fingerprint


def test_a_single_row_may_be_given_for_each_sample() -> None:
    data = load_dataset(rows_of(13, p=numbered(13, 3), t=np.arange(3)), DIFFERENT)
    assert [s["p"][0, 0] for s in data] == [0, 12, 24]  # of samples 0, 4 and 8


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"p": numbered(5, 3)}, r"same number of samples.*x \(12, 2\), for 3 runs, p \(5, 3\), for 5 runs"),
        ({"p": numbered(12, 1, 3)}, r"p \(12, 1, 3\), for 12 runs"),
        ({"p": numbered(3, 2, 3)}, r"'p' must have shape \(samples, 3\), or \(runs, 1, 3\) \(got \(3, 2, 3\)\)"),
        ({"t": np.zeros((3, 1), np.int64)}, r"'t' must have shape \(runs\) \(got \(3, 1\)\)"),
        ({"t": np.int64(3)}, r"'t' must have shape \(runs\) \(got \(\)\)"),
        ({"t": np.zeros(3, np.int32)}, "'t' must be int64"),
        ({"x": numbered(3, 2)}, "for 0 runs"),
        ({"labels": np.arange(3)}, r"labels must have shape \(12,\)"),
    ],
)
def test_what_does_not_come_to_runs_is_refused(others: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(rows_of(12, **others), DIFFERENT)
    assert "\n" not in str(caught.value)


def test_synthetic_data_fit_every_kind_of_input() -> None:
    inputs = {**DIFFERENT, "image": ((4, 2, 2), "uint8"), "mask": ((3,), "bool"), "half": ((4, 1), "float16")}
    data = load_dataset(None, inputs)
    for sample in data:
        assert {n: (x.shape, str(x.dtype)) for n, x in sample.items()} == inputs
    assert data.arrays["image"].max() > 1


def test_a_network_without_a_batch_axis_anywhere() -> None:
    data = load_dataset(np.float32([1, 2, 3]), {"t": ((), "float32")})
    assert [s["t"].tolist() for s in data] == [1, 2, 3]


def test_what_numpy_would_unpickle_is_refused_without_its_advice(tmp_path: Path) -> None:
    text, objects = tmp_path / "text.npz", tmp_path / "objects.npz"
    text.write_text("not an archive")
    np.savez(objects, x=np.array([{}], dtype=object))
    for path, why in (
        (text, "not a zip file; save numbers"),
        (objects, "holds Python objects, which are never loaded"),
    ):
        with pytest.raises(FileFormatError, match=why) as e:
            load_dataset(path, {"x": ((1, 3), "float32")})
        assert "allow_pickle" not in str(e.value)
