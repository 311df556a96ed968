"""Networks that are public by their shape: written out here, with seeded random weights.

Their accuracy means nothing; their speed does, since no engine here looks at the values of weights. Batch-norm
statistics are taken from seeded noise, so that activations keep a sane size through all layers. The encoders take
float32 embeddings: looking up tokens is no arithmetic.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

SIZE = 224
CLASSES = 1000


def conv(ci: int, co: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Module:
    """Convolution, batch norm, activation."""
    layers = [nn.Conv2d(ci, co, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(co)]
    return nn.Sequential(*layers, *([act] if act else []))


class Residual(nn.Module):
    """act(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """x times a gate per channel, from the channels' means."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def resnet(blocks: Sequence[int], bottleneck: bool) -> nn.Module:
    layers: list[nn.Module] = [conv(3, 64, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    ci = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        co = 4 * width if bottleneck else width
        for i in range(count):
            stride = 2 if stage and not i else 1
            if bottleneck:
                first, second = conv(ci, width, 1, act=nn.ReLU()), conv(width, width, 3, stride, act=nn.ReLU())
                body = nn.Sequential(first, second, conv(width, co, 1))
            else:
                body = nn.Sequential(conv(ci, co, 3, stride, act=nn.ReLU()), conv(co, co, 3))
            shortcut = conv(ci, co, 1, stride) if stride == 2 or ci != co else None
            layers.append(Residual(body, shortcut, nn.ReLU()))
            ci = co
    return nn.Sequential(*layers, *head(ci))


def mobilenetv1() -> nn.Module:
    layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.ReLU6())]
    ci = 32
    table = (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)
    for co, stride in table:
        layers += [conv(ci, ci, 3, stride, ci, nn.ReLU6()), conv(ci, co, 1, act=nn.ReLU6())]
        ci = co
    return nn.Sequential(*layers, *head(ci))


Act = Callable[[], nn.Module]


def inverted(ci: int, co: int, wide: int, kernel: int, stride: int, act: Act, se: int = 0) -> nn.Module:
    """Expand, depthwise, squeeze-excite of `se` channels, project; with a shortcut where the shape stays."""
    layers: list[nn.Module] = [conv(ci, wide, 1, act=act())] if wide != ci else []
    layers.append(conv(wide, wide, kernel, stride, wide, act()))
    if se:
        layers.append(SqueezeExcite(wide, se))
    body = nn.Sequential(*layers, conv(wide, co, 1))
    return Residual(body) if stride == 1 and ci == co else body


def mobilenetv3_large() -> nn.Module:
    # Howard et al. 2019, table 1: kernel, expanded channels, output channels, inner channels of squeeze-excite,
    # hard-swish, stride.
    table = (
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1),
        (5, 72, 40, 24, 0, 2), (5, 120, 40, 32, 0, 1), (5, 120, 40, 32, 0, 1),
        (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
        (3, 480, 112, 120, 1, 1), (3, 672, 112, 168, 1, 1),
        (5, 672, 160, 168, 1, 2), (5, 960, 160, 240, 1, 1), (5, 960, 160, 240, 1, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [conv(3, 16, 3, 2, act=nn.Hardswish())]
    ci = 16
    for kernel, wide, co, se, swish, stride in table:
        layers.append(inverted(ci, co, wide, kernel, stride, nn.Hardswish if swish else nn.ReLU, se))
        ci = co
    layers += [conv(ci, 960, 1, act=nn.Hardswish()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, CLASSES))


def efficientnet_lite0() -> nn.Module:
    # expansion, output channels, repeats, stride, kernel
    table = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip
    layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.ReLU6())]
    ci = 32
    for expansion, co, repeats, stride, kernel in table:
        for i in range(repeats):
            layers.append(inverted(ci, co, expansion * ci, kernel, 1 if i else stride, nn.ReLU6))
            ci = co
    return nn.Sequential(*layers, conv(ci, 1280, 1, act=nn.ReLU6()), *head(1280))


def ds_cnn() -> nn.Module:
    """Keyword spotting of MLPerf Tiny: 49 frames of 10 coefficients, 12 words."""
    width = 64
    layers: list[nn.Module] = [nn.ZeroPad2d((1, 1, 4, 5))]  # TensorFlow's SAME for kernel 10x4 at stride 2
    layers += [nn.Conv2d(1, width, (10, 4), 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(4):
        layers += [conv(width, width, 3, 1, width, nn.ReLU()), conv(width, width, 1, act=nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 12))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        split = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


def feed_forward(width: int, inner: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, pre-norm blocks, a classifier on the class token."""

    def __init__(self, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.5 * torch.randn(1, (SIZE // patch) ** 2 + 1, width))
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks.append(Residual(nn.Sequential(nn.LayerNorm(width, 1e-6), Attention(width, heads))))
            blocks.append(Residual(nn.Sequential(nn.LayerNorm(width, 1e-6), feed_forward(width, 4 * width))))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width, 1e-6))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(maps.shape[0], -1, -1), maps], 1) + self.positions
        return self.head(self.blocks(tokens)[:, 0])


class Encoder(nn.Module):
    """Post-norm blocks on embeddings [batch, tokens, width], a classifier on the pooled first token."""

    def __init__(self, width: int, depth: int, heads: int, inner: int, classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.LayerNorm(width)]
        for _ in range(depth):
            blocks += [Residual(Attention(width, heads)), nn.LayerNorm(width)]
            blocks += [Residual(feed_forward(width, inner)), nn.LayerNorm(width)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x)[:, 0])


@dataclass(frozen=True)
class Network:
    """size: the input's shape without the batch axis."""

    make: Callable[[], nn.Module]
    size: tuple[int, ...] = (3, SIZE, SIZE)


NETWORKS = {
    "resnet18": Network(lambda: resnet((2, 2, 2, 2), bottleneck=False)),
    "resnet50": Network(lambda: resnet((3, 4, 6, 3), bottleneck=True)),
    "mobilenetv1": Network(mobilenetv1),
    "mobilenetv3_large": Network(mobilenetv3_large),
    "efficientnet_lite0": Network(efficientnet_lite0),
    "ds_cnn": Network(ds_cnn, (1, 49, 10)),
    "vit_tiny": Network(lambda: VisionTransformer(192, 12, 3, 16)),
    "bert_tiny": Network(lambda: Encoder(128, 2, 2, 512, 2), (128, 128)),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """The network with random weights, in eval mode; the same numbers for the same seed."""
    torch.manual_seed(seed)
    network = NETWORKS[name].make()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the running statistics become plain means over all batches
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    network.train()
    with torch.no_grad():
        network(torch.randn(8, *NETWORKS[name].size))
    return network.eval()


def export(name: str, path: Path) -> None:
    """Write ONNX, batch 1, opset 17, batch norms folded; input `input`, output `logits`."""
    buffer = io.BytesIO()
    example = torch.zeros(1, *NETWORKS[name].size)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    torch.onnx.export(build(name), (example,), buffer, dynamo=False, opset_version=17, **names)
    path.write_bytes(buffer.getvalue())
