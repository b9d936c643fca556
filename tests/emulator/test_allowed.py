"""Kernels that PTX allows although they look wrong, each beside a twin that it does not allow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune.errors import EmulationError, InvalidInput
from tests.helpers.emulator.snippets import needs_emulator

pytestmark = needs_emulator

HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n"
REGISTERS = (
    ".reg .b64 %p, %m; .reg .b32 %b, %c, %r, %t, %u, %v; .reg .pred %q, %z; .shared .align 1024 .b32 s[64];"
    " mov.b32 %b, s; mov.u32 %t, %tid.x; mov.u32 %c, %ctaid.x;"
)


def kernel(body: str, params: str = ".param .u64 a", head: str = "") -> str:
    return f"{HEAD}.visible .entry k({params}) {head} {{\n{REGISTERS}\n{body}\nret;\n}}\n"


@dataclass(frozen=True)
class Twin:
    """``right`` must be silent and leave ``result`` in the first words of a; ``wrong`` must be told as ``kind``."""

    name: str
    right: str
    wrong: str
    kind: str
    result: tuple[int, ...]
    launch: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def flag(write: str, read: str, then: str = "st.global.b32 [%p], 0;") -> str:
    """Block 1 writes a flag, block 0 waits until it reads it and then stores to the flag itself."""
    return kernel(
        f"""ld.param.u64 %p, [a];
setp.eq.u32 %q, %c, 0;
@%q bra W;
{write}
ret;
W: setp.ne.u32 %z, %t, 0;
@%z bra J;
L: {read} %v, [%p];
setp.ne.u32 %q, %v, 1;
@%q bra L;
J: {then}"""
    )


def copy(wait: str) -> str:
    return kernel(
        f"""ld.param.u64 %p, [a];
cp.async.ca.shared.global [%b], [%p], 16;
cp.async.commit_group;
{wait}
ld.shared.b32 %v, [%b];
add.u32 %v, %v, 7;
st.global.b32 [%p+16], %v;"""
    )


def bulk(value: str) -> str:
    """Every lane fills its own 16 bytes and all lanes store theirs to one place."""
    return kernel(
        f"""ld.param.u64 %p, [a];
mad.lo.u32 %b, %t, 16, %b;
{value}
st.shared.v4.b32 [%b], {{%v, 2, 3, 4}};
fence.proxy.async.shared::cta;
cp.async.bulk.global.shared::cta.bulk_group [%p], [%b], 16;
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;"""
    )


def unwritten(use: str) -> str:
    """Lanes below 16 write a word; all lanes load theirs, and do with it what ``use`` says."""
    return kernel(
        f"""ld.param.u64 %p, [a];
mad.lo.u32 %b, %t, 4, %b;
setp.lt.u32 %q, %t, 16;
@%q st.shared.b32 [%b], %t;
bar.warp.sync -1;
ld.shared.b32 %v, [%b];
mad.wide.u32 %p, %t, 4, %p;
{use}"""
    )


def box(width: int) -> str:
    """Stores a box of 8 columns to a tensor of 4, of which the first ``width`` in shared memory were written."""
    return kernel(
        "st.shared.b32 [%b], 1;\n"
        + "".join(f"st.shared.b32 [%b+{4 * k}], {k + 1};\n" for k in range(1, width))
        + """mov.b64 %m, map;
cvta.param.u64 %m, %m;
fence.proxy.async.shared::cta;
cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%m, {0, 0}], [%b];
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;""",
        ".param .u64 a, .param .align 64 .b8 map[128]",
    )


def remote(barrier: str) -> str:
    """Block 1 of a cluster arrives on the mbarrier of block 0, which has not fenced its initialisation."""
    return kernel(
        f"""ld.param.u64 %p, [a];
mbarrier.init.shared.b64 [%b], 1;
{barrier}
mov.u32 %c, %cluster_ctarank;
setp.eq.u32 %q, %c, 0;
@%q bra W;
mapa.shared::cluster.u32 %r, %b, 0;
mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r];
bra E;
W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %q, [%b], 0;
@!%q bra W;
st.global.b32 [%p], 7;
E: barrier.cluster.arrive;
barrier.cluster.wait;"""
    )


def lanes(setter: str) -> str:
    """Lane 1 spins on a flag in its warp's own loop; another lane ``setter``s it."""
    return kernel(
        f"""ld.param.u64 %p, [a];
setp.eq.u32 %z, %t, 1;
@!%z bra S;
W: ld.acquire.gpu.global.u32 %v, [%p];
setp.eq.u32 %q, %v, 0;
@%q bra W;
bra E;
S: {setter}
E: bar.warp.sync 3;"""
    )


ONCE = "setp.eq.u32 %q, %t, 0;\n@%q red.relaxed.gpu.global.add.u32 [%p], 1;"
TWO = {"grid": 2, "block": 1}
TWINS = [
    Twin(
        "the flag itself after a release and an acquire",
        flag("st.release.gpu.global.b32 [%p], 1;", "ld.global.acquire.gpu.b32"),
        flag("st.global.b32 [%p], 1;", "ld.global.acquire.gpu.b32"),
        "global_race",
        (0,),
        TWO,
    ),
    Twin(
        "a counter that red adds to, read relaxed",
        flag("red.relaxed.gpu.global.add.u32 [%p], 1;", "ld.global.relaxed.gpu.b32"),
        flag("red.relaxed.gpu.global.add.u32 [%p], 1;", "ld.global.b32"),
        "global_race",
        (0,),
        TWO,
    ),
    Twin(
        "a red after a fence",
        flag("fence.acq_rel.gpu;\nred.relaxed.gpu.global.add.u32 [%p], 1;", "ld.global.acquire.gpu.b32"),
        flag(
            "st.global.b32 [%p+4], 5;\nred.relaxed.gpu.global.add.u32 [%p], 1;",
            "ld.global.acquire.gpu.b32",
            "ld.global.b32 %v, [%p+4];",
        ),
        "global_race",
        (0,),
        TWO,
    ),
    Twin(
        "the flag, by another thread that a barrier orders after the reader",
        flag(ONCE, "ld.global.relaxed.gpu.b32", "bar.sync 0;\nsetp.eq.u32 %q, %t, 0;\n@!%q st.global.b32 [%p], 0;"),
        flag(ONCE, "ld.global.relaxed.gpu.b32", "setp.eq.u32 %q, %t, 0;\n@!%q st.global.b32 [%p], 1;"),
        "global_race",
        (0,),
        {"grid": 2, "block": 33},
    ),
    Twin(
        "a store of one value by two lanes", bulk("mov.u32 %v, 1;"), bulk("add.u32 %v, %t, 1;"), "global_race", (1, 2)
    ),
    Twin(
        "an unwritten value that is not stored",
        unwritten("@%q st.global.b32 [%p], %v;"),
        unwritten("st.global.b32 [%p], %v;"),
        "uninitialised",
        (0, 1, 2, 3),
        {"block": 32},
    ),
    Twin(
        "an unwritten value that is not selected",
        unwritten("selp.b32 %v, %v, 9, %q;\nst.global.b32 [%p], %v;"),
        unwritten("selp.b32 %v, 9, %v, %q;\nst.global.b32 [%p], %v;"),
        "uninitialised",
        (0, 1, 2, 3),
        {"block": 32},
    ),
    Twin(
        "unwritten bits that are masked",
        unwritten("shl.b32 %v, %v, 4;\nselp.b32 %u, -1, 0, %q;\nand.b32 %v, %v, %u;\nst.global.b32 [%p], %v;"),
        unwritten("shl.b32 %v, %v, 4;\nselp.b32 %u, -1, 1, %q;\nor.b32 %v, %v, %u;\nst.global.b32 [%p], %v;"),
        "uninitialised",
        (0, 16, 32, 48),
        {"block": 32},
    ),
    Twin(
        "an unwritten value in a lane that no shuffle reads",
        unwritten("and.b32 %u, %t, 15;\nshfl.sync.idx.b32 %v, %v, %u, 31, -1;\nst.global.b32 [%p], %v;"),
        unwritten("xor.b32 %u, %t, 16;\nshfl.sync.idx.b32 %v, %v, %u, 31, -1;\nst.global.b32 [%p], %v;"),
        "uninitialised",
        (0, 1, 2, 3),
        {"block": 32},
    ),
    Twin(
        "a branch",
        unwritten("setp.gt.u32 %z, %v, 40;\nand.pred %z, %z, %q;\n@%z trap;\n@%q st.global.b32 [%p], %v;"),
        unwritten("setp.eq.u32 %z, %v, 40;\n@%z bra E;\nE: @%q st.global.b32 [%p], %v;"),
        "uninitialised",
        (0, 1, 2, 3),
        {"block": 32},
    ),
    Twin("a box wider than its tensor", box(4), box(3), "uninitialised", (1, 2, 3, 4), {"block": 1}),
    Twin(
        "a remote arrive after a cluster barrier",
        remote("barrier.cluster.arrive;\nbarrier.cluster.wait;"),
        remote("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;"),
        "proxy",
        (7,),
        {"grid": 2, "block": 1, "cluster": 2},
    ),
    Twin(
        "a flag that another lane of the warp sets",
        lanes("st.release.gpu.global.u32 [%p], 1;"),
        lanes("st.release.gpu.global.u32 [%p+4], 1;"),
        "divergence",
        (1,),
    ),
]


def arguments(twin: Twin) -> list[Any]:
    a = np.zeros((8, 4), np.float32) if "box" in twin.name else np.zeros(32, np.uint32)
    return [a, gt.TensorMap(a, (8, 1), 0)] if "box" in twin.name else [a]


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_what_ptx_allows_is_silent(twin: Twin) -> None:
    for seed in range(4):
        report = gt.emulate(twin.right, args=arguments(twin), seed=seed, **{"block": 2, **twin.launch})
        assert not report.findings, str(report)
        result = report.results[0]
        assert result is not None
        words = result.view(np.uint32).ravel()
        assert tuple(words[: len(twin.result)]) == twin.result


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_what_it_does_not_allow_is_reported(twin: Twin) -> None:
    reports = [gt.emulate(twin.wrong, args=arguments(twin), seed=s, **{"block": 2, **twin.launch}) for s in range(4)]
    assert any(f.kind == twin.kind for r in reports for f in r.errors), [str(r) for r in reports]


def test_the_place_of_an_unwritten_value_is_named_where_it_is_used() -> None:
    (finding,) = gt.emulate(
        unwritten("add.u32 %v, %v, 1;\nst.global.b32 [%p], %v;"), block=32, args=[np.zeros(32, "u4")]
    ).findings
    assert (
        "st.global" in finding.message and "byte 64" in finding.message and "loaded at PTX line 11" in finding.message
    )


@pytest.mark.parametrize(("wait", "kinds"), [("", ["unawaited", "asynchronous"]), ("cp.async.wait_all;", [])])
def test_a_copy_that_is_not_awaited_is_advice(wait: str, kinds: list[str]) -> None:
    silent = copy(wait).replace("ld.shared.b32 %v, [%b];", "mov.u32 %v, 0;")
    report = gt.emulate(silent, args=[np.zeros(8, np.uint32)])
    assert report.ok and [(f.kind, f.level) for f in report.findings] == [(k, "advice") for k in kinds[:1]]
    report = gt.emulate(copy(wait), args=[np.zeros(8, np.uint32)])  # here it is read
    assert {f.kind for f in report.errors} == set(kinds[1:])


def test_a_bulk_store_that_is_not_awaited_lands_and_is_advice() -> None:
    text = bulk("mov.u32 %v, 1;").replace("cp.async.bulk.wait_group 0;", "")
    report = gt.emulate(text, args=[np.zeros(4, np.uint32)])
    assert report.ok and [f.kind for f in report.findings] == ["unawaited"] and list(report.results[0]) == [1, 2, 3, 4]


@pytest.mark.parametrize("where", ["pointer", "symbol", "constant"])
def test_tensor_maps_in_global_and_constant_memory(where: str) -> None:
    a = np.zeros((2, 4), np.float32)
    tensor_map = gt.TensorMap(a, (4, 1), 0)
    space = "const" if where == "constant" else "global"
    place = "ld.param.u64 %m, [map];" if where == "pointer" else "mov.u64 %m, the_map;"
    variable = f".{space} .align 64 .b8 the_map[128];\n"
    text = (
        box(4).replace("mov.b64 %m, map;\ncvta.param.u64 %m, %m;", place).replace(".align 64 .b8 map[128]", ".u64 map")
    )
    text = text.replace(".visible", variable + ".visible")
    pointer = gt.Pointer(tensor_map) if where == "pointer" else None
    report = gt.emulate(text, args=[a, pointer], symbols=None if pointer else {"the_map": tensor_map})
    assert report.ok, str(report)
    assert list(report.results[0][0].view(np.uint32)) == [1, 2, 3, 4]
    report = gt.emulate(text, args=[a, np.zeros(256, np.uint8)])
    assert [f.kind for f in report.findings] == ["tensor_map"]


def test_a_stride_of_zero_where_the_extent_is_one() -> None:
    a, text = np.zeros((2, 4), np.float32), kernel("", ".param .align 64 .b8 map[128]")
    gt.emulate(text, args=[gt.TensorMap(a, (4, 1, 1), 0, shape=(4, 2, 1), strides=(16, 0))])
    with pytest.raises(EmulationError, match="stride 0 of dimension 1"):
        gt.emulate(text, args=[gt.TensorMap(a, (4, 1, 1), 0, shape=(4, 2, 1), strides=(0, 0))])


def test_hundreds_of_module_variables() -> None:
    variables = "".join(f".global .align 4 .u32 g{k} = {k};\n" for k in range(1000))
    text = kernel("ld.param.u64 %p, [a];\nld.global.u32 %v, [g777];\nst.global.u32 [%p], %v;")
    report = gt.emulate(text.replace(".visible", variables + ".visible"), args=[np.zeros(1, np.uint32)])
    assert report.ok and list(report.results[0]) == [777]


GRID_BARRIER = kernel(
    """ld.param.u64 %p, [a];
ld.param.u32 %r, [n];
fence.acq_rel.gpu;
red.relaxed.gpu.global.add.u32 [%p], 1;
L: ld.relaxed.gpu.global.u32 %v, [%p];
setp.lt.u32 %q, %v, %r;
@%q bra L;""",
    ".param .u64 a, .param .u32 n",
)


def test_as_many_blocks_are_resident_as_the_device_holds() -> None:
    report = gt.emulate(GRID_BARRIER, grid=128, args=[np.zeros(1, np.uint32), 128], device="h200")
    assert report.ok and list(report.results[0]) == [128]
    few = {"shared": 60000, "device": "t4"}  # one block on each of 40 SMs
    report = gt.emulate(GRID_BARRIER, grid=41, args=[np.zeros(1, np.uint32), 41], **few)
    assert [f.kind for f in report.findings] == ["deadlock"] and "1 of 41 blocks" in report.findings[0].message
    with pytest.raises(InvalidInput, match="41 blocks are more than the 40 that nvidia-t4 holds"):
        gt.emulate(GRID_BARRIER, grid=41, args=[np.zeros(1, np.uint32), 41], cooperative=True, **few)


WGMMA = kernel(
    """ld.param.u64 %p, [a];
mad.lo.u32 %b, %t, 16, %b;
mov.u32 %r, OFFSET;
st.shared.v4.b32 [%b+128], {0, 0, 0, 0};
fence.proxy.async.shared::cta;
bar.sync 0;
mov.b64 %m, DESCRIPTOR;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%d0, %d1, %d2, %d3}, %m, %m, 0, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;"""
)


@pytest.mark.parametrize("row", [0, 1, 5])
def test_a_matrix_may_start_within_its_swizzle_pattern(row: int) -> None:
    """The base offset is about where the pattern starts, which is at a multiple of 1,024 bytes here."""
    start = 1024 + 128 * row  # shared memory starts at byte 1,024
    descriptor = start >> 4 | 1 << 16 | 64 << 32 | 1 << 62
    text = WGMMA.replace("OFFSET", "0").replace("DESCRIPTOR", str(descriptor)).replace("s[64]", "s[4096]")
    text = text.replace("%v;", "%v; .reg .f32 %d<4>;", 1)
    fill = "".join(f"st.shared.v4.b32 [%b+{2048 * k}], {{0, 0, 0, 0}};\n" for k in range(8))
    report = gt.emulate(
        text.replace("st.shared.v4.b32 [%b+128], {0, 0, 0, 0};\n", fill), block=128, args=[np.zeros(1, "u4")]
    )
    assert not report.findings, str(report)


@pytest.mark.parametrize(("fence", "kinds"), [("", ["unfenced"]), ("fence.mbarrier_init.release.cluster;", [])])
def test_a_copy_on_an_mbarrier_of_its_own_block_without_the_fence_is_advice(fence: str, kinds: list[str]) -> None:
    body = f"""ld.param.u64 %p, [a];
mbarrier.init.shared::cta.b64 [%b], 1;
{fence}
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%b], 16;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%b+64], [%p], 16, [%b];
L: mbarrier.try_wait.parity.shared::cta.b64 %q, [%b], 0;
@!%q bra L;
ld.shared.b32 %v, [%b+64];
st.global.b32 [%p+16], %v;"""
    report = gt.emulate(kernel(body), "k", block=1, args=[np.arange(3, 11, dtype=np.int32)])
    assert report.ok and [f.kind for f in report.findings] == kinds and report.results[0][4] == 3


@pytest.mark.parametrize(("head", "kinds"), [("", ["registers"]), (".maxntid 128", [])])
def test_setmaxnreg_that_the_assembler_ignores_is_advice(head: str, kinds: list[str]) -> None:
    text = kernel("setmaxnreg.dec.sync.aligned.u32 40;", head=head)
    report = gt.emulate(text, "k", block=128, args=[np.zeros(4, np.int32)])
    assert report.ok and [f.kind for f in report.findings] == kinds
