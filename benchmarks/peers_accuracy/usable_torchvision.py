"""Import this before what needs torchvision.

PyPI's torchvision is for CUDA; beside a CPU build of torch it does not find its own operators and stops with "operator
torchvision::nms does not exist", although nothing here calls them. Naming them lets the rest be imported.
"""

from __future__ import annotations

import torch

try:
    import torchvision
except RuntimeError:
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
