"""Worker: Brevitas rounds to nearest or by its GPTQ; its fake-quantized network gives the logits.

The steps are those of Brevitas's own script for post-training quantization of image classifiers, layer by layer: batch
norms merged, weights equalized, activations calibrated, GPTQ where asked, biases corrected.
"""

from __future__ import annotations

from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas import __version__
from brevitas.core.scaling.standalone import ParameterFromStatsFromParameterScaling
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
from brevitas.graph.gptq import gptq_mode
from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
from brevitas.quant.scaled_int import Int8WeightPerChannelFloatMSE
from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloatMSE
from onnx_in_torch import converted
from worker import Outcome, Task, run

BATCH = 50
EQUALIZATIONS = 20  # iterations, as in Brevitas's script
QUANTIZED = {torch.nn.Conv2d: qnn.QuantConv2d, torch.nn.Linear: qnn.QuantLinear}


def quantized(task: Task) -> Any:
    """The network with every layer's weight and input quantized; its ranges are not set yet."""
    # A ReLU6 stays one: as ReLU it would be equalized, in another network.
    model = preprocess_for_quantize(converted(task), relu6_to_relu=False, equalize_iters=EQUALIZATIONS)
    layers = [name for name, module in model.named_modules() if type(module) in QUANTIZED]
    edges = [layers[0], layers[-1]] if task.edges8 else []
    for others, weight_bits, activation_bits in (
        (edges, task.weight_bits, task.activation_bits),
        ([name for name in layers if name not in edges], 8, 8),
    ):
        settings = {
            "weight_quant": Int8WeightPerChannelFloatMSE.let(
                bit_width=weight_bits, narrow_range=False, scaling_impl=ParameterFromStatsFromParameterScaling
            ),
            "input_quant": ShiftedUint8ActPerTensorFloatMSE.let(bit_width=activation_bits),
            "bias_quant": None,
            "return_quant_tensor": False,
        }
        layerwise_quantize(model, {old: (new, settings) for old, new in QUANTIZED.items()}, name_blacklist=others)
    return model


def ptq(task: Task) -> Outcome:
    torch.manual_seed(task.seed)
    torch.set_num_threads(1)
    model = quantized(task)
    images, steps = ([torch.from_numpy(x) for x in parts] for parts in (task.batches(BATCH), task.steps()))
    settings = "scales by squared error, equalization, bias correction, activations quantized where a layer reads them"
    with torch.no_grad():
        model(images[0])  # sets the weights' scales
        with calibration_mode(model):
            over(model, images)
        if task.method == "gptq":
            with gptq_mode(model, use_quant_activations=True, create_weight_orig=False) as gptq:
                for _ in range(gptq.num_layers):
                    over(gptq.model, steps)
                    gptq.update()
            settings += f", GPTQ on {sum(map(len, steps))} images under quantized activations"
        with bias_correction_mode(model):
            over(model, images)
        logits = [model(torch.from_numpy(x)).numpy() for x in task.evaluation_batches(BATCH)]
    return Outcome(np.concatenate(logits), f"Brevitas {__version__}, {settings}")


def over(model: Any, images: list[torch.Tensor]) -> None:
    for x in images:
        model(x)


if __name__ == "__main__":
    run({"nearest": ptq, "gptq": ptq})
