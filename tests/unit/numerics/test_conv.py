"""Convolution against plain loops, in integers and in float."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mpq.errors import InvalidValueError
from tvm_mpq.numerics import conv
from tvm_mpq.schema import Conv2dWorkload, Workload


def loops(x, zero_point, w, bias, work):
    """The convolution, cell by cell, in Python integers."""
    per_in, per_out = work.in_channels // work.groups, work.out_channels // work.groups
    y = np.zeros((work.batch, work.out_height, work.out_width, work.out_channels), np.int64)
    for n, oy, ox, o in np.ndindex(*y.shape):
        total = int(bias[o])
        for i, j, c in np.ndindex(*work.kernel, per_in):
            iy, no_row = divmod(oy * work.stride[0] - work.padding[0] + i * work.dilation[0], work.input_dilation[0])
            ix, no_column = divmod(ox * work.stride[1] - work.padding[1] + j * work.dilation[1], work.input_dilation[1])
            if not no_row and not no_column and 0 <= iy < work.in_height and 0 <= ix < work.in_width:
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
        input_dilation=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
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


def scattered(x, w, stride, padding, extra, dilation, groups):
    """A transposed convolution as ONNX has it: each element of x [N, I, H, W] adds w [I, O / groups, ...] to y."""
    n, channels, *size = x.shape
    per_in, per_out, kernel = channels // groups, w.shape[1], w.shape[2:]
    axes = zip(size, stride, kernel, dilation, extra, strict=True)
    whole = [(d - 1) * s + (k - 1) * t + 1 + e for d, s, k, t, e in axes]
    y = np.zeros((n, groups * per_out, *whole))
    for i, iy, ix, ky, kx in np.ndindex(channels, *size, *kernel):
        first = i // per_in * per_out
        oy, ox = iy * stride[0] + ky * dilation[0], ix * stride[1] + kx * dilation[1]
        y[:, first : first + per_out, oy, ox] += x[:, i, iy, ix, None] * w[i, :, ky, kx]
    (top, left), (height, width) = padding, whole
    return y[:, :, top : height - top, left : width - left]


@pytest.mark.parametrize(
    ("stride", "kernel", "padding", "extra", "dilation", "groups"),
    [
        ((2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1),
        ((2, 2), (4, 4), (1, 1), (0, 0), (1, 1), 1),
        ((3, 1), (2, 3), (0, 1), (2, 0), (1, 2), 2),
        ((2, 4), (3, 3), (1, 0), (1, 1), (2, 1), 3),
    ],
)
def test_a_transposed_convolution_is_one_with_input_dilation(rng, stride, kernel, padding, extra, dilation, groups):
    x = rng.integers(-8, 8, (2, 6, 5, 4)).astype(np.float32)
    w = rng.integers(-8, 8, (6, 3, *kernel)).astype(np.float32)
    want = scattered(x, w, stride, padding, extra, dilation, groups)
    before = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    flipped = w.reshape(groups, 6 // groups, 3, *kernel)[..., ::-1, ::-1]  # [groups, I, O, KH, KW]
    work = Conv2dWorkload(
        batch=2,
        in_height=5,
        in_width=4,
        in_channels=6,
        out_channels=3 * groups,
        kernel=kernel,
        padding=(*before, before[0] + extra[0], before[1] + extra[1]),
        dilation=dilation,
        groups=groups,
        input_dilation=stride,
    )
    weight = flipped.transpose(0, 2, 3, 4, 1).reshape(3 * groups, *kernel, 6 // groups)
    got = conv.float_conv2d(x.transpose(0, 2, 3, 1), weight, None, work)
    assert np.array_equal(got.transpose(0, 3, 1, 2), want)  # small integers are exact in float


def test_macs_of_input_dilation_are_products_with_elements_of_x():
    twice = Conv2dWorkload(1, 48, 48, 64, 32, (2, 2), padding=(1, 1, 1, 1), input_dilation=(2, 2))
    assert (twice.out_height, twice.out_width) == (96, 96)
    assert twice.macs == 48 * 48 * 4 * 64 * 32
    assert Conv2dWorkload(1, 48, 48, 64, 32, (2, 2), padding=(1, 1, 1, 1)).macs == 49 * 49 * 4 * 64 * 32


def test_input_dilation_is_named_in_the_key_where_there_is_one():
    plain = Conv2dWorkload(1, 4, 4, 8, 8, (2, 2))
    assert "input_dilation" not in plain.key
    assert replace(plain, input_dilation=(2, 1)).key.endswith(",activation=none,input_dilation=2x1)")
    assert Workload.from_json(replace(plain, input_dilation=(2, 1)).to_json()).input_dilation == (2, 1)


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
