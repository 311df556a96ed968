"""Worker: Sony's model-compression-toolkit (MCT) rounds to nearest or by its gradient-based GPTQ.

The platform that it quantizes for has the bits that are asked for: weights symmetric per output channel, activations
asymmetric per tensor, quantized once behind a fused convolution, addition and activation; logits stay floats.
"""

from __future__ import annotations

import usable_torchvision  # noqa: F401

# isort: split
import math
from collections.abc import Iterator

import model_compression_toolkit as mct
import numpy as np
import torch
from mct_quantizers import QuantizationMethod
from model_compression_toolkit.core.common.graph.base_node import BaseNode
from model_compression_toolkit.core.common.matchers.node_matcher import BaseNodeMatcher
from model_compression_toolkit.core.common.network_editors import (
    ChangeCandidatesActivationQuantConfigAttr,
    ChangeCandidatesWeightsQuantConfigAttr,
    EditRule,
)
from model_compression_toolkit.core.pytorch.constants import KERNEL
from model_compression_toolkit.target_platform_capabilities.constants import BIAS_ATTR, KERNEL_ATTR
from model_compression_toolkit.target_platform_capabilities.schema import mct_current_schema as schema
from onnx_in_torch import converted
from worker import Floats, Outcome, Task, run

BATCH = 50
EPOCHS = 5
NAMES = schema.OperatorSetNames
LAYERS = (NAMES.CONV, NAMES.FULLY_CONNECTED)
MOVING = (NAMES.FLATTEN, NAMES.RESHAPE, NAMES.GET_ITEM, NAMES.PAD)  # what they give is on the grid of what they read
ACTIVATIONS = (NAMES.RELU, NAMES.RELU6)


def platform(weight_bits: int, activation_bits: int) -> schema.TargetPlatformCapabilities:
    """The machine that the network is quantized for."""

    def weights(bits: int, enabled: bool) -> schema.AttributeQuantizationConfig:
        return schema.AttributeQuantizationConfig(
            weights_quantization_method=QuantizationMethod.SYMMETRIC,
            weights_n_bits=bits,
            weights_per_channel_threshold=True,
            enable_weights_quantization=enabled,
        )

    def options(is_layer: bool, quantizes: bool) -> schema.QuantizationConfigOptions:
        floats = weights(32, False)
        quantized = {KERNEL_ATTR: weights(weight_bits, True), BIAS_ATTR: floats}
        config = schema.OpQuantizationConfig(
            default_weight_attr_config=floats,
            attr_weights_configs_mapping=quantized if is_layer else {},
            activation_quantization_method=QuantizationMethod.UNIFORM,
            activation_n_bits=activation_bits,
            supported_input_activation_n_bits=tuple(range(2, 9)),
            enable_activation_quantization=quantizes,
            quantization_preserving=False,
            fixed_scale=None,
            fixed_zero_point=None,
            simd_size=32,
            signedness=schema.Signedness.AUTO,
        )
        return schema.QuantizationConfigOptions(quantization_configurations=(config,))

    layers = [schema.OperatorsSet(name=n, qc_options=options(True, n != NAMES.FULLY_CONNECTED)) for n in LAYERS]
    moving = [schema.OperatorsSet(name=n, qc_options=options(False, False)) for n in MOVING]
    addition = schema.OperatorsSet(name=NAMES.ADD)
    activations = [schema.OperatorsSet(name=n) for n in ACTIVATIONS]
    layer = schema.OperatorSetGroup(operators_set=tuple(layers))
    activation = schema.OperatorSetGroup(operators_set=tuple(activations))
    fused = ((layer, addition, activation), (layer, addition), (layer, activation), (addition, activation))
    return schema.TargetPlatformCapabilities(
        default_qco=options(False, True),
        operator_set=(*layers, *moving, addition, *activations),
        fusing_patterns=tuple(schema.Fusing(operator_groups=groups) for groups in fused),
        tpc_minor_version=1,
        tpc_patch_version=0,
        tpc_platform_type="asked",
        add_metadata=False,
        name="asked",
    )


class _Named(BaseNodeMatcher):
    """Nodes of these names, also where a batch norm was folded into them. missing: names that no node had so far."""

    def __init__(self, names: set[str]) -> None:
        self._names, self.missing = names, set(names)

    def apply(self, input_object: BaseNode) -> bool:
        name = input_object.name.removesuffix("_bn")
        self.missing.discard(name)
        return name in self._names


def edges_at_8(model: torch.fx.GraphModule) -> list[EditRule]:
    """The first and the last layer's weights at 8 bits, and the tensors that these read."""
    graph = torch.fx.symbolic_trace(model).graph
    modules = dict(model.named_modules())
    layers = [
        node
        for node in graph.nodes
        if node.op == "call_module" and isinstance(modules[node.target], torch.nn.Conv2d | torch.nn.Linear)
    ]
    ends = (layers[0], layers[-1])
    read = set()
    for node in ends:
        source = node.args[0]
        read.add(source.name)
        while source.op == "call_module" and isinstance(modules[source.target], torch.nn.Flatten):
            source = source.args[0]
            read.add(source.name)
    weights = ChangeCandidatesWeightsQuantConfigAttr(attr_name=KERNEL, weights_n_bits=8)
    return [
        EditRule(_Named({node.name for node in ends}), weights),
        EditRule(_Named(read), ChangeCandidatesActivationQuantConfigAttr(activation_n_bits=8)),
    ]


def ptq(task: Task) -> Outcome:
    torch.manual_seed(task.seed)
    torch.set_num_threads(1)
    model = converted(task)
    rules = edges_at_8(model) if task.edges8 else []
    core = mct.core.CoreConfig(debug_config=mct.core.DebugConfig(network_editor=rules))
    asked = platform(task.weight_bits, task.activation_bits)

    def images() -> Iterator[list[Floats]]:
        return ([x] for x in task.batches(BATCH))

    settings = f"MCT {mct.__version__}, ranges by squared error, bias correction"
    if task.method == "nearest":
        network, _ = mct.ptq.pytorch_post_training_quantization(
            model, images, core_config=core, target_platform_capabilities=asked
        )
    else:
        steps = task.steps()
        epochs = math.ceil(task.iterations / len(steps)) if task.iterations else EPOCHS
        network, _ = mct.gptq.pytorch_gradient_post_training_quantization(
            model,
            images,
            core_config=core,
            # Hessians in its loss would cost further passes backwards for every batch.
            gptq_config=mct.gptq.get_pytorch_gptq_config(
                epochs, use_hessian_based_weights=False, use_hessian_sample_attention=False
            ),
            gptq_representative_data_gen=lambda: ([x] for x in steps),
            target_platform_capabilities=asked,
        )
        settings += f", {epochs} epochs of {len(steps)} steps of {task.step_images}, no Hessians"
    missing = sorted(name for rule in rules for name in rule.filter.missing)
    if missing:
        raise ValueError(f"MCT has no nodes {', '.join(missing)} any more: they cannot be kept at 8 bits")
    network.eval()
    with torch.no_grad():
        logits = [network(torch.from_numpy(x)).numpy() for x in task.evaluation_batches(BATCH)]
    return Outcome(np.concatenate(logits), settings)


if __name__ == "__main__":
    run({"nearest": ptq, "gptq": ptq})
