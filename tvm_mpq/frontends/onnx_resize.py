"""ONNX's Resize as what it is: a linear map along each axis, read off ONNX's own evaluator.

TVM's resize takes the ratio of the sizes where ONNX says the scales, and knows neither antialiasing nor all coordinate
modes. It is used where both mean the same, because its loops are scheduled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tvm
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tvm import relax

from tvm_mpq.frontends.axis_products import along

_SAME_IN_TVM = frozenset({"half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"})

_ATTRIBUTES = frozenset(
    ["antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"]
    + ["extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode"]
)


def resize(inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """None where TVM's converter means the same, or where region, scales or sizes are not constant."""
    data = inputs[0]
    given = [_constant(inputs, i) for i in (1, 2, 3)]
    if any(isinstance(g, str) for g in given):
        return None
    roi, scales, sizes = given
    shape = [int(d) for d in data.ty.shape]
    own = {name: value for name, value in attrs.items() if name in _ATTRIBUTES}
    axes = [int(a) % len(shape) for a in own.pop("axes", range(len(shape)))]
    per_axis = _per_axis(axes, roi, scales, sizes, shape, own)
    if _tvm_means_the_same(shape, per_axis, own, roi):
        inputs[1:] = [None, None, relax.const(np.array([n for n, _, _ in _full(per_axis, shape)], np.int64))]
        attrs.pop("axes", None)
        return None
    for axis, (size, scale, region) in per_axis.items():
        if size != shape[axis] or scale != 1:
            matrix, constant = interpolation(shape[axis], size, scale, region, own)
            data = along(data, axis, len(shape), matrix)
            if constant.any():
                wide = constant.reshape([-1 if a == axis else 1 for a in range(len(shape))])
                data = relax.op.add(data, relax.const(wide))
    return data


def _constant(inputs: list[Any], i: int) -> Any:
    """The values, None for an absent or empty operand, text for one that is not constant."""
    operand = inputs[i] if i < len(inputs) else None
    if operand is None:
        return None
    if not isinstance(operand, tvm.ir.GenericConst):
        return "not constant"
    values = operand.value.numpy()
    return values if values.size else None


Axis = tuple[int, float, tuple[float, float] | None]
"""Size of the result along an axis, the scale that positions are computed by, and the region of the data."""


def _per_axis(
    axes: list[int], roi: Any, scales: Any, sizes: Any, shape: list[int], own: dict[str, Any]
) -> dict[int, Axis]:
    policy = own.pop("keep_aspect_ratio_policy", b"stretch").decode()
    cropped = own.get("coordinate_transformation_mode", b"").decode() == "tf_crop_and_resize" and roi is not None
    found: dict[int, Axis] = {}
    ratios = [] if sizes is None else [float(s) / shape[a] for s, a in zip(sizes, axes, strict=True)]
    if sizes is not None and policy != "stretch":
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [ratio] * len(axes)
        sizes = [int(np.floor(ratio * shape[a] + 0.5)) for a in axes]
    for i, axis in enumerate(axes):
        region = (float(roi[i]), float(roi[len(axes) + i])) if cropped else None
        if sizes is not None:
            found[axis] = (int(sizes[i]), ratios[i], region)
        else:
            extent = 1.0 if region is None else region[1] - region[0]
            found[axis] = (int(np.floor(shape[axis] * extent * float(scales[i]))), float(scales[i]), region)
    return found


def _full(per_axis: dict[int, Axis], shape: list[int]) -> list[Axis]:
    return [per_axis.get(axis, (n, 1.0, None)) for axis, n in enumerate(shape)]


def _tvm_means_the_same(shape: list[int], per_axis: dict[int, Axis], own: dict[str, Any], roi: Any) -> bool:
    full = _full(per_axis, shape)
    mode = own.get("mode", b"nearest").decode()
    positions = own.get("coordinate_transformation_mode", b"half_pixel").decode()
    plain = not any(own.get(name) for name in ("antialias", "exclude_outside"))
    exact = all(abs(size - n * scale) < 1e-6 * n for (size, scale, _), n in zip(full, shape, strict=True))
    larger = all(size >= n and size > 1 for (size, _, _), n in zip(full[2:], shape[2:], strict=True))
    images = len(shape) == 4 and all(size == n for (size, _, _), n in zip(full[:2], shape[:2], strict=True))
    return images and plain and exact and larger and mode in ("nearest", "linear") and positions in _SAME_IN_TVM


def interpolation(
    size: int, result: int, scale: float, region: tuple[float, float] | None, own: dict[str, Any]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What element i of the result is: float32[result, size], by which it reads, and float32[result], added.

    Found by running ONNX's Resize on an axis with a single one at each place, and on one of zeros.
    """
    ones = np.concatenate([np.eye(size), np.zeros((1, size))]).astype(np.float32)
    # The evaluator rounds the product with the size down: a hair more keeps whole numbers.
    exact = scale if int(scale * size) == result else scale * (1 + 1e-12)
    if int(exact * size) == result:
        inputs, values = ["x", "roi", "scales"], {"x": ones, "scales": np.array([exact])}
    else:  # a ratio that is kept for all axes rounds to the nearest size
        inputs, values = ["x", "roi", "", "sizes"], {"x": ones, "sizes": np.array([exact * size])}
        own = {**own, "keep_aspect_ratio_policy": "not_larger"}
    if not region:
        inputs[1] = ""
    node = helper.make_node("Resize", inputs, ["y"], axes=[1], **own)
    if region:
        values["roi"] = np.array(region, np.float32)
    declared = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, v.shape) for n, v in values.items()]
    graph = helper.make_graph([node], "axis", declared, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    results = ReferenceEvaluator(model).run(None, values)
    assert isinstance(results, list)  # a mapping only when that is asked for
    found = np.asarray(results[0], np.float32).T
    constant = np.ascontiguousarray(found[:, size])
    return np.ascontiguousarray(found[:, :size] - constant[:, None]), constant
