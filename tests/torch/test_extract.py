"""What of a model is found, as which workload, and what is named as left out: FLOPs add up to PyTorch's own count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gpu_tune.errors import InvalidInput
from gpu_tune.torch.extract import extract
from gpu_tune.torch.extraction import Extraction
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers.torch_models import models


class Call(nn.Module):
    """A function as a model, with parameters ``w`` (8, 8) and ``bias`` (8,)."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function, self.w, self.bias = function, nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(8))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args):
        return self.function(self, *args)


X = torch.zeros(2, 5, 8)


def one(function, *args, **parts):
    """The only layer of a model that is ``function``."""
    found = extract(Call(function, **parts).eval(), args or (X,))
    assert len(found.layers) == 1 and not found.left_out and found.found == 1.0
    return found.layers[0]


@pytest.fixture(scope="module")
def extractions() -> dict[str, tuple[Extraction, int]]:
    """The three models, each with the FLOPs that PyTorch counts as it runs them (without data)."""
    made = {}
    for name, (model, inputs) in models().items():
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
        made[name] = extract(model, inputs), counter.get_total_flops()
    return made


def test_every_flop_of_the_three_models_is_found_or_named(extractions):
    for found, counted in extractions.values():
        assert found.flops == counted and found.notes == ()
    shares = {name: found.found for name, (found, _) in extractions.items()}
    assert shares["ResNet-50"] == 1.0 and 0.98 < shares["transformer block"] < 1.0 and 0.9 < shares["U-Net"] < 1.0


def test_what_is_left_out_of_the_three_models_has_its_name_and_share(extractions):
    named = {name: [(p.operation, p.count) for p in found.left_out] for name, (found, _) in extractions.items()}
    assert named == {
        "transformer block": [("scaled_dot_product_attention", 1)],
        "ResNet-50": [],
        "U-Net": [("conv_transpose2d", 4)],
    }
    for found, _ in extractions.values():
        assert found.found + sum(found.share(p.flops) for p in found.left_out) == pytest.approx(1.0)


def test_layers_are_counted_and_the_largest_comes_first(extractions):
    found, _ = extractions["ResNet-50"]
    assert sum(layer.count for layer in found.layers) == 54 and len(found.layers) == 25
    assert found.layers[0].count == 5 and found.layers[0].names[0] == "blocks.8.conv2" and found.layers[0].weights == 5
    assert [layer.flops for layer in found.layers] == sorted((layer.flops for layer in found.layers), reverse=True)
    epilogues = {layer.workload.epilogue for layer in found.layers}
    assert epilogues == {"scale+bias", "scale+bias+relu", "scale+bias+residual+relu", "bias"}


def test_a_transformer_block_has_its_biases_activation_and_residuals_as_epilogues(extractions):
    found, _ = extractions["transformer block"]
    told = {layer.names[0]: (layer.workload.epilogue, layer.workload.layout) for layer in found.layers}
    assert told == {
        "head": ("", "nt"),
        "qkv": ("bias", "nt"),
        "out": ("bias+residual", "nt"),
        "up": ("bias+gelu", "nt"),
        "down": ("bias+residual", "nt"),
    }


def test_without_epilogues_only_what_the_modules_run_remains():
    model, inputs = models()["transformer block"]
    found = extract(model, inputs, fuse="none")
    assert {layer.workload.epilogue for layer in found.layers} == {"", "bias"}


CASES = {
    "a linear layer on a transposed input": (
        lambda s, x: F.linear(x.transpose(0, 1), s.w, s.bias),
        Matmul(10, 8, 8, dtype="float32", layout="nt", epilogue="bias"),
    ),
    "rows by a weight": (lambda s, x: x @ s.w, Matmul(10, 8, 8, dtype="float32")),
    "by its transpose": (lambda s, x: x @ s.w.t(), Matmul(10, 8, 8, dtype="float32", layout="nt")),
    "batches": (lambda s, x: torch.bmm(x, x.mT), Matmul(5, 5, 8, batch=2, dtype="float32", layout="nt")),
    "transposed batches": (lambda s, x: x.mT @ x, Matmul(8, 8, 5, batch=2, dtype="float32", layout="tn")),
    "an einsum": (lambda s, x: torch.einsum("...d,ed->...e", x, s.w), Matmul(10, 8, 8, dtype="float32", layout="nt")),
    "an einsum whose result is transposed": (
        lambda s, x: torch.einsum("ij,kj->ki", x[0], s.w),
        Matmul(8, 5, 8, dtype="float32", layout="nt"),
    ),
    "tensordot": (lambda s, x: torch.tensordot(x, s.w, 1), Matmul(10, 8, 8, dtype="float32")),
    "addmm with a row": (
        lambda s, x: torch.addmm(s.bias, x[0], s.w, alpha=2),
        Matmul(5, 8, 8, dtype="float32", alpha="any", epilogue="bias"),
    ),
    "addmm with a matrix": (lambda s, x: torch.addmm(x[1], x[0], s.w), Matmul(5, 8, 8, dtype="float32", beta="1")),
    "part of the columns": (
        lambda s, x: x[0, :, :4] @ s.w[:4],
        Matmul(5, 8, 4, dtype="float32", lda=8),
    ),
    "a bias and a clamp": (
        lambda s, x: F.relu6(x @ s.w + s.bias),
        Matmul(10, 8, 8, dtype="float32", epilogue="bias+clamp(0,6)"),
    ),
    "a residual and an activation in place": (
        lambda s, x: F.silu(x.add(F.dropout(F.linear(x, s.w), 0.5, False)), inplace=True),
        Matmul(10, 8, 8, dtype="float32", layout="nt", epilogue="residual+silu"),
    ),
    "a value that is used twice": (
        lambda s, x: (lambda y: y + F.relu(y))(F.linear(x, s.w)),
        Matmul(10, 8, 8, dtype="float32", layout="nt"),
    ),
    "dropout that is not off": (
        lambda s, x: F.relu(F.dropout(F.linear(x, s.w), 0.5, True)),
        Matmul(10, 8, 8, dtype="float32", layout="nt"),
    ),
    "gelu by tanh": (
        lambda s, x: F.gelu(F.linear(x, s.w), approximate="tanh"),
        Matmul(10, 8, 8, dtype="float32", layout="nt", epilogue="gelu_tanh"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_product_is_the_workload_that_a_reader_expects(name):
    function, expected = CASES[name]
    layer = one(function)
    assert layer.workload == expected and layer.count == 1


def test_a_product_is_the_same_whether_or_not_its_weight_asks_for_a_gradient():
    """Decomposed, a linear layer on a transposed input is batched products in one of the cases."""
    function, expected = CASES["a linear layer on a transposed input"]
    for wanted in (True, False):
        model = Call(function).requires_grad_(wanted)
        assert [layer.workload for layer in extract(model, (X,)).layers] == [expected]


def test_under_autocast_the_workload_has_the_dtype_of_its_result():
    def run(s, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.relu(F.linear(x, s.w, s.bias))

    assert one(run).workload == Matmul(10, 8, 8, dtype="bfloat16", layout="nt", epilogue="bias+relu")


def test_float8_operands_keep_their_scales():
    a = torch.zeros(32, 64).to(torch.float8_e4m3fn)
    scale = torch.ones(())
    layer = one(lambda s, a: torch._scaled_mm(a, a.t(), scale, scale, out_dtype=torch.bfloat16), a)
    assert layer.workload == Matmul(32, 32, 64, dtype="float8_e4m3", out_dtype="bfloat16", layout="nt", scales="tensor")


IMAGE = torch.zeros(2, 3, 16, 16)


@pytest.mark.parametrize(
    "conv, image, expected",
    [
        (nn.Conv2d(3, 4, (3, 2), padding="same"), IMAGE, dict(padding=(1, 1, 0, 1), layout="nchw")),
        (nn.Conv2d(3, 4, (3, 2), stride=2), IMAGE[0], dict(n=1, stride=2, layout="nchw")),
        (nn.Conv2d(3, 4, (3, 2)), IMAGE.to(memory_format=torch.channels_last), dict(layout="nhwc")),
        (nn.Conv2d(1, 4, (3, 2)), IMAGE[:, :1].contiguous(), dict(c=1, layout="nchw")),
        (nn.Conv2d(3, 3, (3, 2), groups=3, dilation=2), IMAGE, dict(k=3, groups=3, dilation=2, layout="nchw")),
    ],
)
def test_a_convolution_keeps_its_padding_stride_groups_and_layout(conv, image, expected):
    layer = one(lambda s, x: s.conv(x), image, conv=conv)
    assert layer.workload == Conv2d(
        **{**dict(n=2, c=3, h=16, w=16, k=4, r=3, s=2, dtype="float32", epilogue="bias"), **expected}
    )


def test_batch_norm_folds_in_evaluation_and_not_in_training():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    assert extract(model.eval(), IMAGE).layers[0].workload.epilogue == "scale+bias+relu"
    assert extract(model.train(), IMAGE).layers[0].workload.epilogue == "bias"


def test_tied_weights_are_one_weight():
    model = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(3)])
    model[1].weight = model[0].weight
    layer = one(lambda s, x: s.parts[2](s.parts[1](s.parts[0](x))), parts=model)
    assert layer.count == 3 and layer.weights == 2


def test_operands_that_are_copied_first_are_said():
    layer = one(lambda s, x: x.expand(3, 2, 5, 8) @ x.mT)
    assert layer.workload.batch == 6 and "b" in layer.copies


def test_of_a_branch_the_larger_counts_and_a_loop_counts_its_steps():
    from torch._higher_order_ops.scan import scan

    def branches(s, x):
        return torch.cond(x.sum() > 0, lambda x: x @ s.w, lambda x: (x @ s.w) @ s.w, (x,))

    def steps(s, x):
        def step(carried, y):
            carried = torch.tanh(carried @ s.w + y)
            return carried, carried.clone()

        return scan(step, x[0], x)[1]

    found = extract(Call(branches), (X,))
    assert [layer.count for layer in found.layers] == [2] and "torch.cond" in found.notes[0]
    found = extract(Call(steps), (torch.zeros(6, 4, 8),))
    assert [layer.count for layer in found.layers] == [6] and "runs 6 times" in found.notes[0]


def test_what_no_workload_computes_is_named_with_its_flops_and_the_reason():
    def run(s, x):
        y = s.lstm(x)[0] + s.one(x.mT).mT[:, :1]
        return y, torch.einsum("bij,bkj,kj->ik", x, x, x[0]), x.double() @ s.w.double(), torch.mv(s.w, s.bias)

    found = extract(Call(run, lstm=nn.LSTM(8, 8, batch_first=True), one=nn.Conv1d(8, 8, 3)), (X,))
    told = {p.operation: (p.flops, p.reason) for p in found.left_out}
    assert not found.layers and set(told) == {"lstm", "conv1d", "einsum", "matmul", "mv"}
    assert told["lstm"] == (2 * 10 * (8 * 32 + 8 * 32), "no kernel family computes it")
    assert told["einsum"][1] == "is an einsum of 3 operands" and told["matmul"] == (1280, "has operands of float64")
    assert told["mv"] == (128, "no kernel family computes it")


def test_sizes_that_depend_on_data_are_named_without_flops():
    found = extract(Call(lambda s, x: x[0][x[0, :, 0] > 0] @ s.w), (X,))
    assert [(p.operation, p.flops, p.reason) for p in found.left_out] == [("matmul", None, "a size depends on data")]


def test_an_exported_program_and_decomposed_nodes_are_read_alike():
    program = torch.export.export(nn.Conv2d(3, 4, 3).eval(), (IMAGE,))
    direct, decomposed = extract(program), extract(program.run_decompositions())
    assert direct.layers[0].workload == decomposed.layers[0].workload
    assert direct.model == "the exported program"


def test_permissions_go_to_the_workloads_they_mean_something_for():
    model = Call(lambda s, x: (x @ s.w, (x.bfloat16() @ s.w.bfloat16())))
    told = {layer.workload.dtype: layer.workload.math for layer in extract(model, (X,), math=("tf32",)).layers}
    assert told == {"float32": ("tf32",), "bfloat16": ()}


def branching(s, x):
    return x @ s.w if x.sum() > 0 else x


@pytest.mark.parametrize(
    "model, inputs, words",
    [
        (3, (X,), "model: 3 is no PyTorch model; give a torch.nn.Module"),
        (nn.Linear(8, 8), 5, "example inputs: 5 are no tuple; give the arguments"),
        (nn.Linear(8, 8), (torch.zeros(2, 7),), "[2, 7] X [8, 8]; check the shapes"),
        (
            nn.Linear(8, 8),
            (torch.zeros(0, 8),),
            "its products have no elements; give example inputs that are not empty",
        ),
        (nn.Linear(8, 8), (), "TypeError: missing a required argument: 'input'"),
        (nn.ReLU(), (X,), "model: 'ReLU' has no matrix product and no convolution"),
        (Call(branching), (X,), "its control flow depends on the values in a tensor; use torch.cond"),
    ],
)
def test_bad_input_is_one_clear_error(model, inputs, words, capsys):
    with pytest.raises(InvalidInput) as error:
        extract(model, inputs)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


def test_an_error_names_the_line_of_the_model():
    with pytest.raises(InvalidInput, match=r"cannot be exported at test_extract\.py:\d+: its control flow"):
        extract(Call(branching), (X,))


def test_what_replacing_modules_runs_is_marked():
    parts = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    told = {layer.workload.epilogue: layer.by_modules for layer in extract(parts, IMAGE).layers}
    assert told == {"bias+relu": True, "scale+bias+relu": False}
    only = extract(parts, IMAGE, fuse="modules").layers
    assert {layer.workload.epilogue: layer.by_modules for layer in only} == {"bias+relu": True, "bias": True}
    assert not extract(Call(lambda s, x: F.relu(x @ s.w)), (X,), fuse="modules").layers[0].by_modules
