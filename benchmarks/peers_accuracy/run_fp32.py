"""Worker: the network as it is, run by ONNX Runtime; the others are told against it."""

from __future__ import annotations

import numpy as np
import onnxruntime
from worker import Outcome, Task, run


def unquantized(task: Task) -> Outcome:
    session = onnxruntime.InferenceSession(str(task.model), providers=["CPUExecutionProvider"])
    logits = [session.run(None, {task.input_name: x})[0] for x in task.evaluation_batches(50)]
    return Outcome(np.concatenate(logits), f"ONNX Runtime {onnxruntime.__version__}")


if __name__ == "__main__":
    run({"float": unquantized})
