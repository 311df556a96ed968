from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvm_mpq.passes.normalize.merge_copy import AxisCopy, MergeCopy

op = relax.op
MAPS = (1, 8, 6, 4)

STEP = st.one_of(
    st.tuples(st.just("pad"), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("slice"), st.integers(0, 4), st.integers(1, 3)),
)


@settings(deadline=None, max_examples=300)
@given(extent=st.integers(1, 9), steps=st.lists(STEP, max_size=6))
def test_an_axis_composes_slices_and_pads_in_any_order(extent: int, steps: list[tuple[str, int, int]]) -> None:
    x = np.arange(1, extent + 1)
    want, axis = x, AxisCopy(extent, 0, 0, 1, extent)
    for kind, first, second in steps:
        if kind == "pad":
            want, axis = np.pad(want, (first, second)), axis.padded(first, second)
        else:
            begin = min(first, len(want) - 1)
            want = want[begin::second]
            axis = axis.sliced(begin, second, len(want))
        if axis.count < 1:
            return  # nothing of x is left; the pass does not merge this
    got = np.zeros_like(want)
    got[axis.pad : axis.pad + axis.count] = x[axis.begin :: axis.stride][: axis.count]
    assert axis.extent == len(want)
    assert axis.begin + axis.stride * (axis.count - 1) < extent
    np.testing.assert_array_equal(got, want)


def merged(lab, body, shape=MAPS):
    return lab.apply([MergeCopy()], lab.module(body, shape))


def test_shortcut_without_weights_is_one_slice_and_one_pad(lab) -> None:
    def body(b, x):
        x = b(op.strided_slice(b(op.strided_slice(x, [1], [0], [99], [2])), [2], [0], [99], [2]))
        return b(op.nn.pad(x, [0, 0, 0, 0, 0, 0, 2, 2]))

    new = merged(lab, body)
    assert lab.ops(new) == ["strided_slice", "nn.pad"]
    assert [int(d) for d in lab.bindings(new)[0][0].ty.shape] == [1, 4, 3, 4]


def test_slices_that_undo_a_pad_vanish(lab) -> None:
    def body(b, x):
        y = b(op.strided_slice(b(op.nn.pad(x, [0, 0, 1, 1, 0, 0, 0, 0])), [1], [1], [9], [1]))
        return b(op.nn.relu(y))

    assert lab.ops(merged(lab, body)) == ["nn.relu"]


@pytest.mark.parametrize("layout", ["HWIO", "OHWI"])
def test_a_zero_pad_becomes_the_padding_of_the_convolution(lab, layout) -> None:
    def body(b, x):
        shape = (3, 3, 4, 5) if layout == "HWIO" else (5, 3, 3, 4)
        x = b(op.nn.pad(x, [0, 0, 0, 1, 2, 3, 0, 0]))
        return b(op.nn.conv2d(x, b.const(*shape), padding=(1, 0, 0, 1), data_layout="NHWC", kernel_layout=layout))

    new = merged(lab, body)
    assert lab.ops(new) == ["nn.conv2d"]
    assert [int(p) for p in lab.bindings(new)[0][1].attrs.padding] == [1, 2, 1, 4]


@pytest.mark.parametrize("pad", [[0, 0, 1, 1, 1, 1, 0, 2], [0, 1, 0, 1, 0, 0, 0, 0]])
def test_pads_of_channels_or_batch_stay(lab, pad) -> None:
    channels = 4 + pad[6] + pad[7]

    def body(b, x):
        x = b(op.nn.pad(x, pad))
        return b(op.nn.conv2d(x, b.const(2, 3, 3, channels), data_layout="NHWC", kernel_layout="OHWI"))

    assert lab.ops(merged(lab, body)) == ["nn.pad", "nn.conv2d"]


def test_other_padding_other_strides_and_other_ranks_stay(lab) -> None:
    def body(b, x):
        x = b(op.nn.pad(x, [0, 0, 1, 1, 1, 1, 0, 0], "constant", 1.0))
        x = b(op.nn.pad(x, [0, 0, 1, 1, 1, 1, 0, 0], "reflect"))
        x = b(op.strided_slice(x, [1], [11], [0], [-1]))
        y = b(op.reshape(x, (11 * 10, 4)))
        return b(op.strided_slice(b(op.strided_slice(y, [0], [1], [9])), [0], [1], [9]))

    assert lab.ops(merged(lab, body)) == [
        "nn.pad",
        "nn.pad",
        "strided_slice",
        "reshape",
        "strided_slice",
        "strided_slice",
    ]


def test_a_slice_with_other_users_stays_for_them(lab) -> None:
    def body(b, x):
        y = b(op.strided_slice(x, [3], [1], [4]))
        return b(relax.Tuple([b(op.nn.relu(y)), b(op.strided_slice(y, [3], [1], [3]))]))

    assert sorted(lab.ops(merged(lab, body))) == ["nn.relu", "strided_slice", "strided_slice"]
