"""Worker: AIMET (aimet-onnx) rounds to nearest or by AdaRound; its own simulation gives the logits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from aimet_onnx import QuantizationSimModel, apply_adaround, quantsim
from aimet_onnx.adaround.activation_sampler import ActivationSampler
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common import quantsim_config
from aimet_onnx.common.defs import qtype
from worker import Floats, Outcome, Task, run

LAYERS = ("Conv", "Gemm", "MatMul")
BATCH = 32
# AIMET's own configuration for weights per output channel (symmetric) and activations per tensor (asymmetric).
CONFIGURATION = os.path.join(os.path.dirname(quantsim_config.__file__), "default_config_per_channel.json")


def simulation(task: Task) -> Any:
    """The quantized network before its ranges are set."""
    model = onnx.load(task.model)
    fold_all_batch_norms_to_weight(model)
    sim = QuantizationSimModel(
        model,
        param_type=qtype.int(task.weight_bits),
        activation_type=qtype.int(task.activation_bits),
        quant_scheme="tf_enhanced",  # ranges by least squared error, what AIMET's AdaRound examples take
        config_file=CONFIGURATION,
        providers=["CPUExecutionProvider"],
        session_options_kwargs={"intra_op_num_threads": 1},
    )
    layers = [n for n in sim.model.model.graph.node if n.op_type in LAYERS]
    if task.edges8:
        for node in (layers[0], layers[-1]):
            quantsim.set_param_type(sim, qtype.int(8), nodes_to_include={node.name})
            for name in (node.input[0], node.output[0]):
                quantizer = sim._get_enabled_quantizer(name.removesuffix("_updated").removesuffix("_qdq"))
                if quantizer is not None:
                    quantizer.set_precision(qtype.int(8))
    return sim


def logits(task: Task, sim: Any) -> Floats:
    return np.concatenate([sim.session.run(None, {task.input_name: x})[0] for x in task.evaluation_batches(50)])


def nearest(task: Task) -> Outcome:
    sim = simulation(task)
    sim.compute_encodings([{task.input_name: x} for x in task.batches(BATCH)])
    return Outcome(logits(task, sim), "tf_enhanced ranges")


def only_what_is_asked(session: Any, inputs: dict[str, Floats], name: str) -> Floats:
    """What AIMET's own sampler gives, sooner: that one computes the whole network for every layer."""
    if name in inputs:
        return inputs[name]
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True
    return session.run([name], inputs, run_options=options)[0]


def adaround(task: Task) -> Outcome:
    torch.manual_seed(task.seed)
    torch.set_num_threads(1)
    iterations = task.iterations or (15000 if task.weight_bits < 8 else 10000)  # what AIMET recommends
    sim = simulation(task)
    steps = task.steps()
    ActivationSampler.run_session = staticmethod(only_what_is_asked)
    apply_adaround(sim, [{task.input_name: x} for x in steps], iterations)
    sim.compute_encodings([{task.input_name: x} for x in task.batches(BATCH)])
    images = sum(len(x) for x in steps)
    learned = f"{iterations} iterations a layer of {task.step_images} from {images} images"
    return Outcome(logits(task, sim), f"tf_enhanced ranges, {learned}")


if __name__ == "__main__":
    run({"nearest": nearest, "adaround": adaround})
