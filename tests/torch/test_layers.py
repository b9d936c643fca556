"""Second results: activations that save, and layers in a row whose backward pass is fused across them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import aot_function
from torch.nn import functional

import gpu_tune.torch as gtt
from gpu_tune import dispatch
from gpu_tune.cuda import driver
from gpu_tune.errors import InvalidInput
from gpu_tune.kernel.kernel import TunedKernel
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan
from gpu_tune.torch import layers as rows
from gpu_tune.torch import pair_ops, routes
from tests.helpers import device_memory, torch_on_virtual_gpu
from tests.helpers.winners import winner

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "silu": functional.silu,
}
NO_WORK = ("<built-in function getitem>", "aten.view", "aten.detach")
MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
}


def random_layers(kind: str, activation: str, seed: int) -> tuple[nn.Sequential, Tensor]:
    """Two to four layers with that activation between them, some without a bias, and an input."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    count, made, images = int(rng.integers(2, 5)), [], kind != "linear"
    widths = [int(v) * (2 if images else 1) for v in rng.integers(1, 9, count + 1)]
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        bias, groups = bool(rng.integers(0, 4)), int(rng.integers(1, 3))
        if images:
            window, padding = tuple(rng.integers(1, 4, 2).tolist()), tuple(rng.integers(0, 2, 2).tolist())
            stride, dilation = tuple(rng.integers(1, 3, 2).tolist()), tuple(rng.integers(1, 3, 2).tolist())
            options: dict[str, Any] = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias)
            made.append(nn.Conv2d(before, after, window, **options))
        else:
            made.append(nn.Linear(before, after, bias=bias))
        made += [MODULES[activation]()] * (i + 1 < count or bool(rng.integers(0, 2)))
    size = (2, widths[0], 40, 41) if images else (*rng.integers(1, 4, int(rng.integers(1, 3))).tolist(), widths[0])
    memory = torch.channels_last if kind == "nhwc" else torch.contiguous_format
    model, x = nn.Sequential(*made), torch.randn(size)
    return (model.to(memory_format=memory), x.contiguous(memory_format=memory)) if images else (model, x)


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The result, and the gradients for the input and all parameters."""
    x = x.clone().requires_grad_()
    y = model(x)
    g = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad(y, (x, *model.parameters()), g)]


def check(kind: str, activation: str, seeds: Sequence[int]) -> None:
    for seed in seeds:
        model, x = random_layers(kind, activation, seed)
        expected = step(model.double(), x.double())
        model, x = random_layers(kind, activation, seed)
        gtt.replace(model)
        for ours, theirs in zip(step(model, x), expected):
            scale = theirs.abs().max().item()
            torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-5 * scale + 1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["linear", "nchw", "nhwc"])
def test_gradients_of_random_rows_of_layers_are_autograds(
    kind: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    apply = rows._Layers.apply
    monkeypatch.setattr(rows._Layers, "apply", lambda *args: asked.append(kind) or apply(*args))
    check(kind, activation, range(3))
    assert asked == [kind] * 3
    monkeypatch.setattr(rows, "_with_bits", lambda *args: True)
    check(kind, activation, range(3, 5) if activation == "relu" else ())


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["linear", "nchw", "nhwc"])
def test_gradients_of_many_random_rows_of_layers_are_autograds(
    kind: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(kind, activation, range(100, 140))
    monkeypatch.setattr(rows, "_with_bits", lambda *args: True)
    check(kind, activation, range(140, 160) if activation == "relu" else ())


def test_nothing_elementwise_is_left_in_a_training_step() -> None:
    """What a compiler is given: products, with all else in their epilogues, but for what the loss's gradient needs."""
    graphs: list[list[str]] = []

    def kept(module: torch.fx.GraphModule, inputs: Any) -> Any:
        calls = [node for node in module.graph.nodes if node.op == "call_function"]
        names = [str(node.target) for node in calls]
        graphs.append([n for n in names if not n.startswith(NO_WORK)])
        epilogues.extend(a for n in calls for a in n.args if isinstance(a, str) and ("d" in a or "aux" in a))
        return module

    epilogues: list[str] = []
    weights = [torch.randn(s, requires_grad=True) for s in ((16, 8), (12, 16), (4, 12))]
    biases = [torch.randn(n, requires_grad=True) for n in (16, 12, 4)]
    traced = aot_function(lambda x, *p: gtt.mlp(x, p[:3], p[3:]), fw_compiler=kept, bw_compiler=kept)
    x = torch.randn(6, 8, requires_grad=True)
    traced(x, *weights, *biases).square().sum().backward()
    forward, backward = ([n.removeprefix("gpu_tune.").removesuffix(".default") for n in graph] for graph in graphs)
    assert forward == ["matmul_pair", "matmul_pair", "matmul"]
    assert sorted(n for n in backward if "matmul" in n) == ["matmul"] * 4 + ["matmul_pair"] * 2
    assert {n for n in backward if "matmul" not in n} <= {"aten.sum.dim_IntList", "aten.clone", "aten._to_copy"}, (
        "the last layer's bias alone is summed apart"
    )
    assert sum(n.startswith("aten.sum") for n in backward) == 1
    assert epilogues == ["bias+gelu(aux)"] * 2 + ["dgelu+dbias"] * 2
    graphs.clear()
    one = aot_function(lambda x, w, b: gtt.linear(x, w, b, activation="silu"), fw_compiler=kept, bw_compiler=kept)
    one(x, weights[0], biases[0]).sum().backward()
    assert graphs[0] == ["gpu_tune.matmul_pair.default"]


def test_a_graph_for_a_gpu_has_fused_calls_where_our_kernels_serve_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is elementwise is the compiler's to fuse, as it was."""
    monkeypatch.setattr(routes, "gpu_of", lambda tensor: 0)
    faster: set[str] = set()
    kernel = TunedKernel.__new__(TunedKernel)
    monkeypatch.setattr(dispatch, "server", lambda w, *rest: kernel if w.epilogue in faster else None)
    found: list[list[str]] = []

    def kept(module: torch.fx.GraphModule, inputs: Any) -> Any:
        names = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        found.append([n for n in names if n.startswith("gpu_tune") or "gelu" in n])
        results = module.graph.output_node().args[0]
        return lambda *args: [None if n is None else torch.zeros(tuple(n.meta["val"].shape)) for n in results]

    x, w, v, bias = (torch.randn(s, requires_grad=True) for s in ((6, 8), (16, 8), (4, 16), (16,)))
    single, pair, slope = "gpu_tune.matmul.default", "gpu_tune.matmul_pair.default", "aten.gelu_backward.default"
    for served, forward, backward in (
        ((), [single, "aten.gelu.default", single], [slope]),
        (("bias+gelu(aux)",), [pair, single], [slope]),
        (("bias+gelu(aux)", "dgelu+dbias"), [pair, single], []),
    ):
        faster = set(served)
        found.clear()
        for f in (
            lambda *p: gtt.mlp(p[0], p[1:3], [p[3], None]),
            lambda *p: gtt.linear(p[0], p[1], p[3], activation="gelu"),
        ):
            traced = aot_function(f, fw_compiler=kept, bw_compiler=kept)
            traced(x, w, v, bias).sum().backward()
        row, row_back, alone, _ = found
        assert row == forward and [n for n in row_back if "gelu" in n] == backward
        assert row_back.count(pair) == ("dgelu+dbias" in served) and alone == forward[:-1]


@pytest.mark.slow
def test_compiled_layers_are_one_graph_for_many_sizes() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 4))
    gtt.replace(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for m in (5, 7, 2, 64):
        x = torch.randn(m, 8)
        for ours, theirs in zip(step(compiled, x), step(model, x)):
            torch.testing.assert_close(ours, theirs)
    assert counter.frame_count == 2


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_opcheck(activation: str) -> None:
    given = dict(requires_grad=True)
    weights, biases = [torch.randn(s, **given) for s in ((7, 8), (4, 7))], [None, torch.randn(4, **given)]
    torch.library.opcheck(rows.layers, (torch.randn(5, 8, **given), weights, biases, [activation, ""], [], ""))
    weights = [torch.randn(s, **given).to(memory_format=torch.channels_last) for s in ((4, 3, 3, 3), (6, 2, 2, 3))]
    geometry = [1] * 9 + [2, 1, 0, 0, 1, 1, 1, 1, 2]
    x = torch.randn(2, 3, 6, 7, **given)
    torch.library.opcheck(rows.layers, (x, weights, [None, None], [activation] * 2, geometry, ""))
    a, b, bias, rest = torch.randn(5, 8, **given), torch.randn(6, 8, **given), torch.randn(6, **given), [None] * 3
    args = (a, b, None, bias, *rest, None, "nt", 1.0, 0.0, f"bias+{activation}(aux)", None, "")
    torch.library.opcheck(pair_ops.matmul_pair, args)
    aux = pair_ops.matmul_pair(*args)[1].detach()
    back = (a, b, None, None, *rest, aux, "nt", 1.0, 0.0, f"d{activation}+dbias", None, "")
    torch.library.opcheck(pair_ops.matmul_pair, back)
    filters = weights[0]
    args = (x, filters, None, None, None, None, *rows.plan([""], geometry, "")[0].shape, f"{activation}(aux)", None, "")
    torch.library.opcheck(pair_ops.conv2d_pair, args)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_gradients(activation: str) -> None:
    torch.manual_seed(0)
    act, found = ACTIVATIONS[activation], []
    x, w, v, bias = (torch.randn(s) for s in ((5, 8), (7, 8), (3, 7), (7,)))
    for kind in (torch.float32, torch.float64):
        given = [t.to(kind).requires_grad_() for t in (x, w, v, bias)]
        if kind is torch.float32:
            alone = gtt.linear(*given[:2], given[3], activation=activation)
            row = gtt.mlp(given[0], given[1:3], [given[3], None], activation=activation)
        else:
            alone = act(functional.linear(*given[:2], given[3]))
            row = functional.linear(alone, given[2])
        for y in (alone, row):
            first = torch.autograd.grad((y**2).sum(), given[:2], create_graph=True)
            found.append(torch.autograd.grad(sum((g**2).sum() for g in first), given[:2], retain_graph=True))
    for ours, theirs in zip((*found[0], *found[1]), (*found[2], *found[3])):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_calls_with_second_results_in_backward_passes_of_ones_own() -> None:
    torch.manual_seed(0)
    x, w, bias = torch.randn(5, 8, requires_grad=True), torch.randn(130, 8, requires_grad=True), torch.randn(130)
    z = functional.linear(x, w, bias)
    for name, act in ACTIVATIONS.items():
        y, aux = gtt.matmul(x, w, layout="nt", epilogue=f"bias+{name}(aux)", bias=bias)
        assert torch.equal(y, act(z)) and (torch.equal(aux, z) or (aux.dtype, aux.shape) == (torch.uint8, (5, 32)))
        g, v = torch.randn(5, 3), torch.randn(3, 130)
        expected = torch.autograd.grad(act(z), z, g @ v, retain_graph=True)[0]
        with torch.no_grad():
            dz, dbias = gtt.matmul(g, v, epilogue=f"d{name}+dbias", aux=aux)
            alone = gtt.matmul(g, v, epilogue=f"d{name}", aux=aux)
        torch.testing.assert_close(dz, expected)
        torch.testing.assert_close(dbias, expected.sum(0))
        assert torch.equal(alone, dz)
        ours, theirs = (torch.autograd.grad(t.square().sum(), (x, w), retain_graph=True) for t in (y, act(z)))
        for one, other in zip(ours, theirs):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    y, bits = gtt.conv2d(image, torch.randn(4, 3, 1, 1), epilogue="relu(aux)")
    where = np.unpackbits(bits.numpy(), bitorder="little")[: y.numel()].astype(bool)
    assert np.array_equal(where, (y > 0).permute(0, 2, 3, 1).numpy().ravel())
    assert torch.func.vmap(lambda t: gtt.matmul(t, w, layout="nt", epilogue="silu(aux)")[1])(x[:, None]).shape[0] == 5


def test_autocast_of_layers_and_only_what_is_asked_for() -> None:
    x, w, v = torch.randn(5, 8), torch.randn(7, 8), torch.randn(3, 7, requires_grad=True)
    kept: list[tuple[int, ...]] = []
    watching = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t)
    with watching, torch.autocast("cpu", dtype=torch.bfloat16):
        y = gtt.mlp(x, [w, v])
    assert y.dtype is torch.bfloat16 and y.requires_grad and kept.count((5, 7)) == 2, "the inner input, and its aux"
    y.sum().backward()
    expected = functional.gelu(functional.linear(x, w)).sum(0).expand(3, 7)
    torch.testing.assert_close(v.grad, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
    assert w.grad is None and v.grad is not None and v.grad.dtype is torch.float32


def test_a_row_of_layers_is_computed_one_by_one_unless_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("not these")

    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Hardtanh(), nn.Linear(8, 8))
    gtt.replace(model)
    x = torch.randn(3, 8)
    expected = model(x)
    monkeypatch.setattr(rows._Layers, "apply", never)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    seen: list[Tensor] = []
    handle = model[1].register_forward_hook(lambda module, given, out: seen.append(out))
    torch.testing.assert_close(model(x), expected)
    handle.remove()
    assert seen[0].shape == (3, 16)
    with pytest.raises(AssertionError, match="not these"):
        model(x)


def kernel_for(workload: Any) -> TunedKernel:
    """A kernel that is given every array of the workload, and does nothing."""
    names = tuple(workload.arrays())
    code = f'extern "C" __global__ void nothing({", ".join(f"void* {n}" for n in names)}) {{}}'
    step = KernelStep("nothing", (1, 1, 1), (32, 1, 1), tuple(map(BufferArg, names)))
    return TunedKernel(winner(workload, code, LaunchPlan((step,))))


def test_our_kernels_serve_both_directions(fake_cuda: Any, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which kernels are asked for, and with which memory they are launched; the virtual GPU computes none of them."""
    driver.use_context(0)
    torch_on_virtual_gpu.take(monkeypatch.setattr)
    routes.forget()
    kernels: dict[Any, TunedKernel] = {}
    launched: list[set[int]] = []

    def server(workload: Any, gpu: int, library: str) -> Any:
        if not workload.epilogue:
            return None
        return kernels.get(workload) or kernels.setdefault(workload, kernel_for(workload))

    def seen(of: driver.Launch) -> None:
        launched.append({argument.value for argument in of.arguments})

    monkeypatch.setattr(dispatch, "server", server)
    launch, prepared = driver.Launch.__call__, driver.Launch.on
    monkeypatch.setattr(driver.Launch, "__call__", lambda of, stream: seen(of) or launch(of, stream))

    def on(of: driver.Launch, stream: int) -> Callable[[], Any]:
        issue = prepared(of, stream)
        return lambda: seen(of) or issue()

    monkeypatch.setattr(driver.Launch, "on", on)
    made = torch_on_virtual_gpu.moved
    w, v = made(torch.randn(128, 64)).requires_grad_(), made(torch.randn(64, 128)).requires_grad_()
    x, bias, g = made(torch.randn(32, 64)), made(torch.randn(128)).requires_grad_(), made(torch.ones(32, 64))
    y = None
    for _ in range(2):  # the second time from addresses that are known
        launched.clear()
        del y
        y = gtt.mlp(x, [w, v], [bias, None], activation="relu")
        assert {k.epilogue for k in kernels} == {"bias+relu(aux)", "drelu+dbias"}, "a ReLU's bits: both are ours"
        aux = y.grad_fn.saved_tensors[-2]
        assert aux.dtype is torch.uint8 and aux.shape == (32, 16)
        assert len(launched) == 1 and launched[0] >= {t.data_ptr() for t in (x, w, bias, aux)}
        (dbias,) = torch.autograd.grad(y, bias, g)
        assert len(launched) == 2 and launched[1] >= {t.data_ptr() for t in (g, v, aux, dbias)}
    device_memory.synchronize()
    launched.clear()
    saved = gtt.linear(x, w, bias, activation="gelu")
    assert len(launched) == 1 and launched[0] >= {t.data_ptr() for t in (x, w, bias, saved)}
    routes.forget()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, w: gtt.mlp(x, []), "weights: 'list' is no sequence of tensors; give one weight a layer"),
        (lambda x, w: gtt.mlp(x, w), "weights: 'Parameter' is no sequence|weights: 'Tensor' is no sequence"),
        (lambda x, w: gtt.mlp(x, [w, None]), r"weights\[1\]: 'NoneType' is no matrix"),
        (lambda x, w: gtt.mlp(x, [w[0]]), r"weights\[0\]: \(3,\) is no matrix \(n, k\); give a tensor of two"),
        (lambda x, w: gtt.mlp(x, [w, w], [None]), "biases: 'list' is no sequence of 2 biases, one a weight"),
        (lambda x, w: gtt.mlp(x, [w], [1.0]), r"biases\[0\]: 'float' is neither a tensor nor None"),
        (lambda x, w: gtt.mlp(x, [w], activation="tanh"), "activation: 'tanh' is not one that .* use one of relu"),
        (lambda x, w: gtt.mlp(x, [w], activation=None), "activation: None is not one"),
        (lambda x, w: gtt.mlp(x.double(), [w]), "x.dtype: 'torch.float64' has no gradients; use float32"),
        (lambda x, w: gtt.mlp(None, [w]), "x: None is no torch.Tensor"),
        (
            lambda x, w: gtt.mlp(x, [w, w[:, :2]]),
            r"weights\[1\].shape: \(3, 2\) is not \(n, 3\), which the layer before",
        ),
        (lambda x, w: gtt.mlp(x, [w], [w[0, :2]]), r"biases\[0\].shape: \(2,\) is not \(3,\), which weights\[0\] asks"),
        (lambda x, w: gtt.mlp(x, [w, w.half()]), r"weights\[1\].dtype: 'torch.float16' is not torch.float32"),
        (lambda x, w: gtt.mlp(x, [w.to_sparse()]), r"weights\[0\]: 'sparse_coo' is a layout"),
        (lambda x, w: gtt.Sequential(gtt.Linear(2, 3), gtt.Linear(3, 3))(x), r"weight.shape: .* which x asks for"),
        (lambda x, w: gtt.Sequential(gtt.Linear(2, 3), nn.ReLU(), gtt.Linear(3, 3))(x), "weight of layer 0.shape: "),
        (lambda x, w: gtt.matmul(x, w, epilogue="dgelu"), "aux: is missing"),
        (lambda x, w: gtt.matmul(x, w, epilogue="gelu(aux)", aux=x), "aux: is no operand of the epilogue"),
        (lambda x, w: gtt.matmul(x, w, epilogue="relu(aux)+dbias"), "writes two arrays beside the result"),
        (lambda x, w: gtt.matmul(x, w, epilogue="dgelu", aux=3), "aux: 'int' is no torch.Tensor"),
        (lambda x, w: gtt.matmul(x, w, epilogue="dgelu", aux=x[:1]), "aux.shape"),
        (lambda x, w: gtt.matmul(x.char(), w.char(), epilogue="relu(aux)"), "torch.int8, which has no gradients"),
    ],
)
def test_a_bad_call_is_one_clear_error(call: Any, said: str) -> None:
    x, w = torch.ones(3, 3), torch.ones(3, 3)
    with pytest.raises(InvalidInput, match=said):
        call(x, w)
