"""Modules of torch against torch itself: what is imported computes what the module does.

In one file: each of many small modules is compared in the same way.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingDependencyError, UnsupportedModelError
from tvm_mpq.frontends import load_model

torch = pytest.importorskip("torch")
nn = torch.nn
F = nn.functional


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.Hardswish()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)) + x)


class Net(nn.Module):
    """Convolutions, batch norm, pooling with its index output, a residual, a linear layer on three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU6(), nn.MaxPool2d(2))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, image):
        y = self.stem(image)
        for block in self.blocks:
            y = block(y)
        return self.fc(self.norm(y.flatten(2).transpose(1, 2)))


class Tied(nn.Module):
    """One weight under two names, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight
        self.register_buffer("position", torch.ones(3, 4), persistent=False)

    def forward(self, ids):
        return self.head(self.emb(ids) + self.position)


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Net().train()


@pytest.fixture
def image():
    return torch.randn(2, 3, 15, 15, generator=torch.Generator().manual_seed(2))


def _expected(model, *inputs) -> np.ndarray:
    training = model.training
    with torch.no_grad():
        out = model.eval()(*inputs).numpy()
    model.train(training)
    return out


SPATIAL = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (2, 4, 15)),
    "conv1d same": (nn.Conv1d(4, 6, 4, padding="same"), (1, 4, 9)),
    "average pool": (nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 4, 10)),
    "adaptive pool": (nn.AdaptiveAvgPool1d(5), (2, 4, 10)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4, 7)),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, (2, 3), stride=(3, 2), padding=(0, 1), dilation=(2, 1)), (2, 4, 5, 6)),
    "transposed with output padding": (nn.ConvTranspose2d(4, 2, 1, stride=(3, 2), output_padding=(2, 1)), (1, 4, 3, 4)),
}


class Last(nn.Module):
    def forward(self, x):
        return x[:, -1] + x.select(-2, -3)[..., :2]


def test_an_index_from_the_end(run) -> None:
    x = torch.randn((2, 5, 2), generator=torch.Generator().manual_seed(4))
    np.testing.assert_array_equal(run(load_model(Last(), example_inputs=x), x.numpy())[0], _expected(Last(), x))


@pytest.mark.parametrize("name", SPATIAL)
def test_one_dimensional_and_transposed_operators(name, run) -> None:
    module, shape = SPATIAL[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    (got,) = run(load_model(module, example_inputs=x), x.numpy())
    wanted = _expected(module, x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)  # sums of at most 24 products of size about 1


def test_a_module_computes_the_same_and_stays_in_training_mode(net, image, run) -> None:
    net.blocks[0].eval()
    loaded = load_model(net, example_inputs=(image,))
    assert [net.training, net.blocks[0].training, net.blocks[0].conv.training, net.fc.training] == [
        True,
        False,
        False,
        True,
    ]
    np.testing.assert_allclose(run(loaded, image.numpy())[0], _expected(net, image), rtol=0, atol=1e-5)
    assert loaded.name == "Net"
    assert loaded.input_names == ("image",)


def test_names_are_those_of_the_parameters(net, image, operators) -> None:
    found = operators(load_model(net, example_inputs=image))
    wanted = {
        "stem.0": "relax.nn.conv2d",
        "stem.1": "relax.clip",
        "stem.2": "relax.nn.max_pool2d",
        "blocks.0.conv": "relax.nn.conv2d",
        "blocks.0.bn": "relax.nn.batch_norm",
        "blocks.0.add": "relax.add",
        "blocks.1.conv": "relax.nn.conv2d",
        "norm": "relax.nn.layer_norm",
        "fc": "relax.matmul",
    }
    assert {name: found.get(name) for name in wanted} == wanted
    assert "relax.zeros_like" not in found.values()


@pytest.mark.parametrize("wrap", [tuple, list, lambda v: {"input": v[0]}, lambda v: v[0], lambda v: (v[0].numpy(),)])
def test_example_inputs_come_in_any_form(image, wrap) -> None:
    assert load_model(nn.ReLU(), example_inputs=wrap([image])).input_names == ("input",)


def test_an_exported_program_and_its_file_have_their_batch_fixed(net, image, tmp_path, run) -> None:
    program = torch.export.export(net.eval(), (image,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    loaded = load_model(program, batch=3)
    assert loaded.notes == ("dynamic batch axis of input 'image' fixed to 3",)
    assert [int(d) for d in loaded.mod["main"].params[0].ty.shape] == [3, 3, 15, 15]
    assert set(loaded.mod["main"].attrs.keys()) <= {"global_symbol"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "net.pt2")
    again = load_model(tmp_path / "net.pt2", batch=3)
    assert (again.name, again.fingerprint) == ("net", loaded.fingerprint)
    x = torch.cat([image, image[:1]])
    np.testing.assert_allclose(run(again, x.numpy())[0], _expected(net, x), rtol=0, atol=1e-5)


def test_other_dynamic_axes_are_refused(image) -> None:
    class Pointwise(nn.Module):
        def forward(self, x):
            return x * 2

    program = torch.export.export(Pointwise(), (image,), dynamic_shapes=({2: torch.export.Dim("height", max=20)},))
    with pytest.raises(UnsupportedModelError, match="input 'x' has dynamic axis 2"):
        load_model(program)
    loaded = load_model(program, input_shapes={"x": (2, 3, 9, 15)})
    assert loaded.notes == ("sizes of input 'x' fixed to 2x3x9x15",)
    with pytest.raises(InvalidValueError, match=r"axis 2 of input 'x' was exported for sizes 1 to 20 \(got 21\)"):
        load_model(program, input_shapes={"x": (2, 3, 21, 15)})


def test_an_axis_that_follows_from_another(run) -> None:
    class Halved(nn.Module):
        def forward(self, x, y):
            return x[:, ::2] + y

    half = torch.export.Dim("half", min=2)
    example = (torch.zeros(1, 12), torch.zeros(1, 6))
    program = torch.export.export(Halved(), example, dynamic_shapes=({1: 2 * half}, {1: half}))
    loaded = load_model(program, input_shapes={"x": (1, 8), "y": (1, 4)})
    x, y = np.arange(8, dtype=np.float32)[None], np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(run(loaded, x, y)[0], [[1, 3, 5, 7]])
    with pytest.raises(InvalidValueError, match=r"input 'x' is .*comes to 1x8 "):
        load_model(program, input_shapes={"x": (1, 10), "y": (1, 4)})


def test_shared_weights_become_constants_with_both_names(run, operators) -> None:
    torch.manual_seed(3)
    model, ids = Tied(), torch.tensor([[1, 6, 0]])
    loaded = load_model(model, example_inputs=ids)
    assert loaded.input_names == ("ids",)
    found = operators(loaded)
    assert (found["emb"], found["head"]) == ("relax.take", "relax.matmul")
    np.testing.assert_allclose(run(loaded, ids.numpy())[0], _expected(model, ids), rtol=0, atol=1e-5)


def test_several_outputs_stay_several(image, run) -> None:
    class Two(nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    first, second = run(load_model(Two(), example_inputs=image), image.numpy())
    np.testing.assert_array_equal(first, image.numpy() + 1)
    np.testing.assert_array_equal(second, image.numpy() * 2)


def test_a_module_without_example_inputs_is_refused(net) -> None:
    with pytest.raises(InvalidValueError, match="example_inputs must be given with the torch module Net"):
        load_model(net)


def test_a_module_that_torch_cannot_export_is_refused_in_one_line(net) -> None:
    with pytest.raises(UnsupportedModelError, match=r"^torch.export cannot export Net: [^\n]+$"):
        load_model(net, example_inputs=torch.randn(1, 5, 15, 15))
    assert net.training


def test_an_unknown_operator_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x)[0]

    with pytest.raises(UnsupportedModelError, match=r"unknown operator.* linalg_qr"):
        load_model(Odd(), example_inputs=torch.randn(3, 3))


def test_bad_weights_are_refused_by_name(net, image) -> None:
    with torch.no_grad():
        net.blocks[1].conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UnsupportedModelError, match=r"NaN in tensor 'blocks\.1\.conv\.weight'"):
        load_model(net, example_inputs=image)
    with pytest.raises(UnsupportedModelError, match="must be float32"):
        load_model(Net().double(), example_inputs=image.double())
    with pytest.raises(UnsupportedModelError, match="bfloat16"):
        load_model(Net().bfloat16(), example_inputs=image.bfloat16())


def test_a_file_that_is_no_program_is_refused(tmp_path) -> None:
    (tmp_path / "bad.pt2").write_bytes(b"not a zip archive")
    with pytest.raises(FileFormatError, match=r"^[^\n]*bad.pt2[^\n]*torch.export.save[^\n]*$"):
        load_model(tmp_path / "bad.pt2")
    torch.save({"a": 1}, tmp_path / "weights.pth")
    with pytest.raises(UnsupportedModelError, match=r"torch.export.save to .pt2"):
        load_model(tmp_path / "weights.pth")


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "net.pt2").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"tvm-mpq\[torch\]"):
        load_model(tmp_path / "net.pt2")


class Called(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, x * x, alpha=0.3) - torch.rsub(x, 2.0, alpha=3.0),
        lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
        lambda x: F.avg_pool3d(x[:, :, None].expand(2, 3, 4, 15, 15), 2, divisor_override=3),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=1.37, mode="bilinear", recompute_scale_factor=True),
    ],
)
def test_arguments_that_tvm_does_not_read(function, image, run) -> None:
    (y,) = run(load_model(Called(function), example_inputs=image), image.numpy())
    np.testing.assert_allclose(y, function(image).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=5), "divisor_override .* with ceil_mode"),
        (lambda x: F.max_pool3d(x[:, :, None], (1, 2, 2), return_indices=True), "max_pool3d with return_indices"),
        (lambda x: F.adaptive_max_pool2d(x, 4, return_indices=True), "15x15 to 4x4 .* or leave the indices"),
    ],
)
def test_arguments_that_cannot_be_kept_are_refused(function, words: str, image) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        load_model(Called(function), example_inputs=image)


RESIZES = [
    lambda x: F.interpolate(x, scale_factor=1.37, mode="bilinear"),
    lambda x: F.interpolate(x, scale_factor=1.37, recompute_scale_factor=True),
    lambda x: F.interpolate(x, size=(5, 6), mode="bilinear", antialias=True),
    lambda x: F.interpolate(x, size=(31, 9), mode="bicubic", align_corners=True),
    lambda x: F.interpolate(x, size=(7, 20), mode="nearest-exact"),
    lambda x: F.interpolate(x[0], scale_factor=1.7, mode="linear"),
]
WINDOWS = [
    lambda x: F.max_pool2d(x, 3, (2, 1), 1, dilation=2, return_indices=True),
    lambda x: F.max_pool1d(x[0], 2, ceil_mode=True, return_indices=True),
    lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=(15, 15)),
    lambda x: F.adaptive_max_pool2d(x, (4, 7)),
    lambda x: F.adaptive_max_pool2d(x, 5),
    lambda x: F.adaptive_max_pool2d(x, (5, 3), return_indices=True),
    lambda x: F.unfold(x, (2, 3), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
    lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), (15, 15), 3, padding=1, stride=2),
]
NORMS = [lambda x: F.group_norm(x, 3, eps=0.1), lambda x: F.group_norm(x, 1, torch.tensor([0.5, 2.0, -1.0]))]


@pytest.mark.parametrize("functions", [RESIZES, WINDOWS, NORMS], ids=["resizes", "windows", "norms"])
def test_what_tvm_misreads_or_lacks_is_what_torch_makes_of_it(functions, image, run) -> None:
    class All(nn.Module):
        def forward(self, x):
            made = [function(x) for function in functions]
            return tuple(y for part in made for y in (part if isinstance(part, tuple) else (part,)))

    results = run(load_model(All(), example_inputs=image), image.numpy())
    wrong = []
    for place, (found, wanted) in enumerate(zip(results, All()(image), strict=True)):
        assert found.dtype == wanted.numpy().dtype
        if not np.allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5):
            wrong.append(place)
    assert not wrong


def test_a_resize_of_an_open_size_is_refused_where_its_scale_is_not_whole(image) -> None:
    free = {"x": {2: torch.export.Dim("height", min=4, max=64)}}

    class Resized(nn.Module):
        def forward(self, x):
            return F.interpolate(x, scale_factor=1.5, mode="bilinear")

    program = torch.export.export(Resized(), (image,), dynamic_shapes=free)
    with pytest.raises(UnsupportedModelError, match="export the model with fixed sizes"):
        load_model(program, input_shapes={"x": (2, 3, 9, 15)})


def test_several_inputs_by_name_and_a_dict_of_results(image, run) -> None:
    class Both(nn.Module):
        def forward(self, x, *, gain, shift=None):
            return {"sum": x * gain + shift, "first": x[:, :1]}

    inputs = {"x": image, "gain": torch.tensor(2.0), "shift": torch.ones(1, 3, 1, 1)}
    loaded = load_model(Both(), example_inputs=inputs)
    assert loaded.input_names == ("x", "gain", "shift")
    total, first = run(loaded, *(np.asarray(v) for v in inputs.values()))
    np.testing.assert_allclose(total, image.numpy() * 2 + 1, rtol=1e-6)
    np.testing.assert_array_equal(first, image.numpy()[:, :1])
