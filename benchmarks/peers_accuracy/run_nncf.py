"""Worker: NNCF's post-training quantization of the network as OpenVINO reads it, rounding to nearest."""

from __future__ import annotations

import nncf
import numpy as np
import openvino
from worker import CannotError, Outcome, Task, run


def ptq(task: Task) -> Outcome:
    if (task.weight_bits, task.activation_bits) != (8, 8):
        # With `num_bits` in its advanced parameters NNCF 3.4.0 raises "constraints specified in NNCF config are
        # incompatible with HW capabilities as specified in HW config type 'ANY'".
        raise CannotError(
            "nncf.quantize refuses fewer than 8 bits; its 4-bit weight compression leaves activations alone"
        )
    quantized = nncf.quantize(
        openvino.Core().read_model(task.model),
        nncf.Dataset(list(task.batches(1))),
        preset=nncf.QuantizationPreset.MIXED,  # symmetric weights, asymmetric activations
        subset_size=len(task.calibration),
    )
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    network = openvino.Core().compile_model(quantized, "CPU", settings)
    logits = np.concatenate([network([x])[0] for x in task.evaluation_batches(50)])
    return Outcome(logits, "preset mixed, fast bias correction")


if __name__ == "__main__":
    run({"nearest": ptq})
