"""Convolution against plain loops, in integers and in float."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import conv
from tvm_mpq.schema import Conv2dWorkload


def loops(x, zero_point, w, bias, work):
    """The convolution, cell by cell, in Python integers."""
    per_in, per_out = work.in_channels // work.groups, work.out_channels // work.groups
    y = np.zeros((work.batch, work.out_height, work.out_width, work.out_channels), np.int64)
    for n, oy, ox, o in np.ndindex(*y.shape):
        total = int(bias[o])
        for i, j, c in np.ndindex(*work.kernel, per_in):
            iy = oy * work.stride[0] - work.padding[0] + i * work.dilation[0]
            ix = ox * work.stride[1] - work.padding[1] + j * work.dilation[1]
            if 0 <= iy < work.in_height and 0 <= ix < work.in_width:
                data = int(x[n, iy, ix, o // per_out * per_in + c]) - zero_point
                total += data * int(w[o, i, j, c])
        y[n, oy, ox, o] = total
    return y


@st.composite
def workloads(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    depthwise = groups > 1 and draw(st.booleans())
    per_in = 1 if depthwise else draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    size = [draw(st.integers(d * (k - 1) + 1, d * (k - 1) + 4)) for k, d in zip(kernel, dilation, strict=True)]
    return Conv2dWorkload(
        batch=draw(st.integers(1, 2)),
        in_height=size[0],
        in_width=size[1],
        in_channels=groups * per_in,
        out_channels=groups * draw(st.integers(1, 2)),
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilation=dilation,
        groups=groups,
    )


def operands(work, rng):
    shape = (work.batch, work.in_height, work.in_width, work.in_channels)
    x = rng.choice([0, 1, 127, 128, 254, 255], shape).astype(np.uint8)
    w_shape = (work.out_channels, *work.kernel, work.in_channels // work.groups)
    w = rng.choice([-127, -1, 0, 3, 127], w_shape).astype(np.int8)
    return x, w, rng.integers(-1000, 1000, work.out_channels).astype(np.int32)


@settings(max_examples=80, deadline=None)
@given(work=workloads(), zero_point=st.sampled_from([0, 3, 255]), seed=st.integers(0, 99))
def test_integer_conv_is_exact(work, zero_point, seed):
    x, w, bias = operands(work, np.random.default_rng(seed))
    got = conv.integer_conv2d(x, zero_point, w, bias, work)
    assert got.dtype == np.int32
    assert np.array_equal(got, loops(x, zero_point, w, bias, work))


@settings(max_examples=30, deadline=None)
@given(work=workloads(), seed=st.integers(0, 99))
def test_float_conv(work, seed):
    x, w, bias = operands(work, np.random.default_rng(seed))
    got = conv.float_conv2d(x.astype(np.float32), w.astype(np.float32), bias.astype(np.float32), work)
    assert np.array_equal(got, loops(x, 0, w, bias, work))  # small integers are exact in float


def test_no_bias(rng):
    work = Conv2dWorkload(1, 2, 2, 3, 4, (1, 1))
    x, w, _ = operands(work, rng)
    zeros = np.zeros(4, np.float32)
    args = x.astype(np.float32), w.astype(np.float32)
    assert np.array_equal(conv.float_conv2d(*args, None, work), conv.float_conv2d(*args, zeros, work))


def test_accumulator_overflow_is_refused():
    work = Conv2dWorkload(1, 1, 1, 40000, 1, (1, 1))
    x, w = np.full((1, 1, 1, 40000), 255, np.uint8), np.full((1, 1, 1, 40000), 127, np.int8)
    assert conv.integer_conv2d(x, 0, w, np.array([2**29], np.int32), work)[0, 0, 0, 0] == 255 * 127 * 40000 + 2**29
    with pytest.raises(InvalidValueError, match="int32"):
        conv.integer_conv2d(x, 0, w, np.array([2**30], np.int32), work)


def test_wrong_shapes_are_refused():
    work = Conv2dWorkload(1, 4, 4, 3, 2, (1, 1))
    with pytest.raises(InvalidValueError, match=r"\(1, 4, 4, 3\)"):
        conv.float_conv2d(np.zeros((1, 3, 4, 4), np.float32), np.zeros((2, 1, 1, 3), np.float32), None, work)


def test_fold_bias_rounds_and_clips():
    bias = np.float32([0.25, 0.75, -1e30, 1e30, 1.0])
    got = conv.fold_bias(bias, 0.5, np.float32([1, 1, 1, 1, 0.5]))
    assert got.tolist() == [0, 2, -(2**30), 2**30, 4]
    with pytest.raises(InvalidValueError, match="bias must be finite"):
        conv.fold_bias(np.float32([np.nan]), 1.0, np.float32([1]))


def test_least_scale_keeps_every_bias():
    bias = np.float32([3.0, -3.0, 0.0, 3e38])
    least = conv.least_scale(bias, 0.125)
    assert least.dtype == np.float32 and least[2] == 0 and np.isfinite(least).all()
    folded = conv.fold_bias(bias, 0.125, np.maximum(least, np.float32(2.0**-60)))
    assert np.abs(folded[:2]).min() >= 2**30 * (1 - 2.0**-23) and folded[2] == 0
    assert np.allclose(folded[:2] * 0.125 * least[:2].astype(np.float64), bias[:2], rtol=2.0**-23)
    assert np.isfinite(conv.least_scale(np.float32([3e38]), 1e-38)).all()
    with pytest.raises(InvalidValueError, match="bias must be finite"):
        conv.least_scale(np.float32([np.inf]), 1.0)
