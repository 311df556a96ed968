"""A report as `optimize` makes it, small and with numbers that are easy to follow."""

from __future__ import annotations

from typing import Any

import pytest

WORKLOAD = (
    "conv2d(batch=1,in_height=8,in_width=8,in_channels=48,out_channels=96,kernel=3x3,stride=2x2,padding=1x1x1x1,"
    "dilation=1x1,groups=1,residual=True,activation=relu)"
)

LONG_NAME = "a.very.long.operator.name." * 8 + "conv"


def operator(name: str, precision: str, *, w4a8_us: float = 14.0) -> dict[str, Any]:
    times = {"fp32": {32: 40.0}, "w8a8": {8: 12.0, 32: 13.0}, "w4a8": {8: w4a8_us}}
    losses = {"fp32": 0.0, "w8a8": 1e-4, "w4a8": 0.02}
    return {
        "name": name,
        "workload": WORKLOAD,
        "precision": precision,
        "candidates": {p: {"latency_us": t, "loss": losses[p], "size_bytes": 9} for p, t in times.items()},
        "latency_us": min(times[precision].values()),
        "macs": 10,
    }


def point(name: str, latency_ms: float, loss: float, dominated: bool = False) -> dict[str, Any]:
    row = {"name": name, "latency_ms": latency_ms, "size_mb": 0.3, "energy_mj": None}
    row |= {"loss": loss, "dominated": dominated}
    return {**row, "plan": {"stem": "w8a8"}, "gap": 0.0, "status": "optimal", "evaluations": 1}


@pytest.fixture
def report() -> dict[str, Any]:
    names = {"stem": "w8a8", LONG_NAME: "w4a8", "block2.conv": "w4a8", "fc": "fp32"}
    return {
        "model": "digits",
        "target": "local",
        "device": "Some CPU|core|avx2|cores=2|threads=1",
        "threads": 1,
        "operators": [operator(n, p) for n, p in names.items()],
        "plan": names,
        "latency_ms": {"fp32": 0.8, "int8": 0.25, "mixed": 0.2, "predicted": 0.21},
        "latency_iqr_ms": {"fp32": 0.01, "int8": 0.002, "mixed": 0.003},
        "predicted_ms": {"fp32": 0.8, "int8": 0.25, "mixed": 0.21},
        "accuracy": {
            "metric": "top1",
            "fp32": 98.5,
            "int8": 98.4,
            "mixed": 98.1,
            "hits": {"fp32": 531, "int8": 530, "mixed": 529},
            "samples": 539,
            "on_calibration_data": False,
        },
        "size_bytes": {"fp32": 2_000_000, "int8": 600_000, "mixed": 450_000},
        "weight_bytes": {"fp32": 1_600_000, "int8": 400_000, "mixed": 280_000},
        "activation_bytes": {"fp32": 81_920, "int8": 20_480, "mixed": 20_481},
        "solver": {
            "name": "HiGHS 1.15",
            "status": "optimal",
            "objective": 0.04,
            "bound": 0.03,
            "gap": 0.25,
            "seconds": 0.2,
        },
        "plans_tried": [
            {"predicted_ms": 0.21, "loss": 0.04, "drop": 0.3, "name": "", "low": 0.2, "high": 0.4, "images": 100},
            {
                "predicted_ms": 0.25,
                "loss": 0.01,
                "drop": 0.1,
                "name": "uniform w8a8",
                "low": 0.1,
                "high": 0.2,
                "images": 9,
            },
        ],
        "judgement": {
            "data": "calib",
            "images": 300,
            "fp32_right": 0.93,
            "fp32_sure": 0.91,
            "trained_on": False,
            "mixed_images": 0,
            "confidence": 0.9,
            "plans": 2,
            "seconds": 12.5,
            "chosen": {"estimate": 0.3, "low": 0.2, "high": 0.4, "images": 100},
            "undecided": None,
            "nearest": None,
            "rival": None,
            "near_ties": [],
        },
        "held": {"mixed": {"estimate": 0.37, "low": -0.2, "high": 0.9, "images": 539, "better": 1, "worse": 3}},
        "latency_entries": {"measured": 20, "predicted": 0, "cached": 4},
        "boundaries": ["fc:8->32"],
        "front": [
            point("", 0.2, 0.04),
            point("chosen", 0.21, 0.04),
            point("uniform w8a8", 0.25, 4e-4),
            point("uniform w4a8", 0.26, 0.08, dominated=True),
            point("uniform fp32", 0.8, 0.0),
        ],
        "waterfall": [
            {"name": LONG_NAME, "change_us": -30.0},
            {"name": "block2.conv", "change_us": -14.0},
            {"name": "conversions between formats", "change_us": 4.0},
        ],
        "provenance": {
            "created": "2026-01-02T03:04:05+00:00",
            "command": "tvm-mpq optimize digits.onnx --out 'a b'",
            "versions": {"TVM": "0.27"},
            "digests": {"model": "0123456789abcdef"},
        },
        "calibration": {"samples": 64, "synthetic": False, "observer": "mse"},
        "artifacts": {"model.so": "/out/model.so"},
    }
