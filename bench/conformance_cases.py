"""The kernels that conformance compares, one special instruction each, with inputs that leave no freedom in the result.

Every case is a source, a launch plan and input arrays; what is compared is every byte of its ``out``. Products are of
small integers, so no order of summation shows; the approximate functions are compared with a tolerance instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from gpu_tune.plan import BufferArg, Im2Col, KernelStep, LaunchPlan, ScalarArg, TensorMapArg

DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "s8": np.int8,
    "u8": np.uint8,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
HEAD = r"""
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
#define DEVICE static __device__ __forceinline__
#define GLOBAL extern "C" __global__ void
struct alignas(64) TensorMap { u64 words[16]; };
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
extern __shared__ __align__(1024) unsigned char smem[];
"""
HOPPER = r"""
DEVICE void barrier_ready(u32 bar, u32 count) {
  if (threadIdx.x == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;"
                                     :: "r"(bar), "r"(count) : "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); __syncthreads(); }
DEVICE void expect(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory"); }
DEVICE void wait(u32 bar, u32 parity) {
  u32 done = 0;
  while (!done) asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                             "selp.u32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(bar), "r"(parity) : "memory"); }
DEVICE void stored() { asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory"); }
"""


@dataclass(frozen=True)
class Case:
    """``tolerance`` 0: every bit has to agree; else the largest relative difference of float32 words."""

    name: str
    source: str
    plan: LaunchPlan
    arrays: dict[str, np.ndarray]
    min_cc: int = 80
    hopper: bool = False
    tolerance: float = 0.0

    def runs_on(self, cc: int) -> bool:
        """Whether a device of compute capability ``cc`` has the instruction."""
        return cc == 90 if self.hopper else cc >= self.min_cc


def _case(
    name: str,
    source: str,
    kernel: str,
    arrays: dict[str, np.ndarray],
    *more: Any,
    block: int = 32,
    shared: int = 0,
    cluster: int = 1,
    **options: Any,
) -> Case:
    args = [BufferArg(n) for n in arrays if not any(isinstance(m, TensorMapArg) and m.buffer == n for m in more)]
    step = KernelStep(kernel, (cluster, 1, 1), (block, 1, 1), (*args, *map(_argument, more)), shared, (cluster, 1, 1))
    return Case(name, HEAD + (HOPPER if options.get("hopper") else "") + source, LaunchPlan((step,)), arrays, **options)


def _argument(value: Any) -> Any:
    if isinstance(value, TensorMapArg):
        return value
    return ScalarArg("n", "uint64" if isinstance(value, np.uint64) else "int32", int(value))


def _words(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2**32, count, dtype=np.uint32)


def _integers(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    return rng.integers(0 if kind == "u8" else -3, 4, count).astype(DTYPES[kind])


def _out(count: int) -> np.ndarray:
    return np.zeros(count, np.uint32)


def matrices(rng: np.random.Generator) -> Iterator[Case]:
    """ldmatrix and stmatrix."""
    fill = "for (int i = l; i < 1024; i += 32) ((u32*)smem)[i] = {}; __syncthreads();"
    for count, trans in itertools.product((1, 2, 4), ("", ".trans")):
        regs = ", ".join(f"%{i}" for i in range(count))
        outs = ", ".join(f'"=r"(r[{i}])' for i in range(count))
        for trial in range(2):
            where = (rng.permutation(256)[:32] * 16).astype(np.uint32)
            source = f"""GLOBAL k(const u32* a, const u32* b, u32* out) {{
              const int l = threadIdx.x; u32 r[{count}]; {fill.format("a[i]")}
              asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{regs}}}, [%{count}];"
                           : {outs} : "r"(shared_address(smem) + b[l]) : "memory");
              for (int q = 0; q < {count}; ++q) out[q * 32 + l] = r[q]; }}"""
            yield _case(
                f"ldmatrix x{count}{trans} {trial}",
                source,
                "k",
                {"a": _words(rng, 1024), "b": where, "out": _out(32 * count)},
                shared=4096,
                min_cc=75,
            )
        places = ", ".join(f"%{i + 1}" for i in range(count))
        ins = ", ".join(f'"r"(a[{i} * 32 + l])' for i in range(count))
        source = f"""GLOBAL k(const u32* a, const u32* b, u32* out) {{
          const int l = threadIdx.x; {fill.format("0")}
          asm volatile("stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%0], {{{places}}};"
                       :: "r"(shared_address(smem) + b[l]), {ins} : "memory");
          __syncthreads(); for (int i = l; i < 1024; i += 32) out[i] = ((u32*)smem)[i]; }}"""
        where = (rng.permutation(256)[:32] * 16).astype(np.uint32)
        yield _case(
            f"stmatrix x{count}{trans}",
            source,
            "k",
            {"a": _words(rng, 128), "b": where, "out": _out(1024)},
            shared=4096,
            min_cc=90,
        )


def mma(rng: np.random.Generator) -> Iterator[Case]:
    """mma.sync in every shape and type of the templates."""
    forms = [(16, k, d, t, t, 75 if k == 8 else 80) for k in (8, 16) for d in ("f16", "f32") for t in ("f16",)]
    forms += [(16, k, "f32", "bf16", "bf16", 80) for k in (8, 16)] + [
        (16, k, "f32", "tf32", "tf32", 80) for k in (4, 8)
    ]
    pairs = list(itertools.product(("s8", "u8"), repeat=2))
    forms += [(m, k, "s32", a, b, 80) for m, k in ((8, 16), (16, 16), (16, 32)) for a, b in pairs]
    forms += [(16, 32, "f32", a, b, 89) for a, b in itertools.product(("e4m3", "e5m2"), repeat=2)]
    for m, k, d, a, b, cc in forms:
        size = np.dtype(DTYPES[a]).itemsize
        na, nb, nc = m * k * size // 128, 8 * k * size // 128, m * 8 // 32 // (2 if d == "f16" else 1)
        regs = [
            ", ".join(f"%{i}" for i in range(lo, hi)) for lo, hi in ((0, nc), (nc, nc + na), (nc + na, nc + na + nb))
        ]
        c_type, c = ("float", "f") if d == "f32" else ("u32", "r")
        source = f"""GLOBAL k(const u32* a, const u32* b, {c_type}* out) {{
          const int l = threadIdx.x; {c_type} d[{nc}]; for (int i = 0; i < {nc}; ++i) d[i] = out[i * 32 + l];
          asm volatile("mma.sync.aligned.m{m}n8k{k}.row.col.{d}.{a}.{b}.{d} "
                       "{{{regs[0]}}}, {{{regs[1]}}}, {{{regs[2]}}}, {{{regs[0]}}};"
            : {", ".join(f'"+{c}"(d[{i}])' for i in range(nc))}
            : {", ".join([f'"r"(a[{i} * 32 + l])' for i in range(na)] + [f'"r"(b[{i} * 32 + l])' for i in range(nb)])});
          for (int i = 0; i < {nc}; ++i) out[i * 32 + l] = d[i]; }}"""
        start = rng.integers(-8, 9, nc * 32 * (2 if d == "f16" else 1))
        out = start.astype({"f32": np.float32, "f16": np.float16, "s32": np.int32}[d]).view(np.uint32)
        arrays = {
            "a": _integers(rng, a, m * k).view(np.uint32),
            "b": _integers(rng, b, 8 * k).view(np.uint32),
            "out": out,
        }
        yield _case(f"mma m{m}n8k{k} {d} {a} {b}", source, "k", arrays, min_cc=cc)


def wgmma(rng: np.random.Generator) -> Iterator[Case]:
    """wgmma: types, sizes, majors, swizzles, byte offsets, A from registers, signs."""
    types = [
        ("f32", "f16", "f16"),
        ("f16", "f16", "f16"),
        ("f32", "bf16", "bf16"),
        ("f32", "tf32", "tf32"),
        *(("s32", a, b) for a, b in itertools.product(("s8", "u8"), repeat=2)),
        *((d, a, b) for d in ("f32", "f16") for a, b in itertools.product(("e4m3", "e5m2"), repeat=2)),
    ]
    offsets = ((128, 256), (1024, 2048), (256, 1024), (2048, 512))
    for (d, a, b), registers in itertools.product(types, (False, True)):
        yield _wgmma(rng, 64, d, a, b, 0, 0, registers, 128, (16, 1024))
    for major_a, major_b, swizzle, (lbo, sbo) in itertools.product((0, 1), (0, 1), (0, 32, 64, 128), offsets):
        yield _wgmma(rng, 64, "f32", "f16", "f16", major_a, major_b, False, swizzle, (lbo, sbo))
    for kind, swizzle, (lbo, sbo) in itertools.product(("s8", "tf32"), (0, 32, 64, 128), offsets[:2]):
        yield _wgmma(rng, 32, "s32" if kind == "s8" else "f32", kind, kind, 0, 0, False, swizzle, (lbo, sbo))
    for n in (8, 24, 96, 128, 192, 256):
        yield _wgmma(rng, n, "f32", "bf16", "bf16", 0, 1, False, 128, (4096, 1024))
    yield _wgmma(rng, 16, "f32", "f16", "f16", 0, 0, False, 0, (128, 256), signs=(-1, 1))
    yield _wgmma(rng, 16, "f32", "f16", "f16", 0, 0, False, 0, (128, 256), signs=(1, -1))


def _wgmma(
    rng: np.random.Generator,
    n: int,
    d: str,
    a: str,
    b: str,
    major_a: int,
    major_b: int,
    registers: bool,
    swizzle: int,
    offsets: tuple[int, int],
    signs: tuple[int, int] = (1, 1),
) -> Case:
    k = 32 // np.dtype(DTYPES[a]).itemsize
    count = n // (4 if d == "f16" else 2)
    c_type, c = ("float", "f") if d == "f32" else ("u32", "r")
    a_text = "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}" if registers else f"%{count}"
    after = count + (4 if registers else 1)
    tail = "" if d == "s32" else f", {signs[0]}, {signs[1]}"
    if a in ("f16", "bf16"):
        tail += f", {major_b}" if registers else f", {major_a}, {major_b}"
    ins = ", ".join(f'"r"(r[{i}])' for i in range(4)) if registers else '"l"(da)'
    places = ", ".join(f"%{i}" for i in range(count))
    outs = ", ".join(f'"+{c}"(d[{i}])' for i in range(count))
    source = f"""GLOBAL __launch_bounds__(128, 1) k(const u32* a, {c_type}* out, u64 da, u64 db) {{
      const int t = threadIdx.x; const u32 base = shared_address(smem);
      for (int i = t; i < 16384; i += 128) ((u32*)smem)[i] = a[i];
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); __syncthreads();
      da |= (base & 0x3FFFF) >> 4; db |= ((base + 32768) & 0x3FFFF) >> 4;
      u32 r[4]; for (int i = 0; i < 4; ++i) r[i] = a[i * 128 + t];
      {c_type} d[{count}]; for (int i = 0; i < {count}; ++i) d[i] = out[i * 128 + t];
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      asm volatile("wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{a}.{b} {{{places}}}, {a_text}, %{after}, 1{tail};"
                   : {outs} : {ins}, "l"(db));
      asm volatile("wgmma.commit_group.sync.aligned;\\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
      for (int i = 0; i < {count}; ++i) out[i * 128 + t] = d[i]; }}"""
    code = {0: 0, 128: 1, 64: 2, 32: 3}[swizzle]
    descriptor = np.uint64((offsets[0] >> 4) << 16 | (offsets[1] >> 4) << 32 | code << 62)
    size = np.dtype(DTYPES[a]).itemsize
    image = np.concatenate([_integers(rng, t, 32768 // size).view(np.uint32) for t in (a, b)])
    majors = f"{'mn' if major_a else 'k'} {'mn' if major_b else 'k'}"
    name = f"wgmma n{n} {d} {a} {b} {majors} swizzle {swizzle} offsets {offsets}"
    name += (" A in registers" if registers else "") + ("" if signs == (1, 1) else f" signs {signs}")
    return _case(
        name,
        source,
        "k",
        {"a": image, "out": _out(count * 128)},
        descriptor,
        descriptor,
        block=128,
        shared=65536,
        hopper=True,
    )


def tma(rng: np.random.Generator) -> Iterator[Case]:
    """Tensor maps: tiles in 1-5 dimensions and all swizzles, overhanging; im2col; multicast; stores and reductions."""
    for swizzle, corner in itertools.product((0, 32, 64, 128), ((0, 0), (8, 3), (-4, -2), (50, 30))):
        source = rng.integers(1, 65536, (40, 72)).astype(np.uint16)
        yield _tile(
            f"tile swizzle {swizzle} at {corner}",
            source,
            ({0: 64, 32: 16, 64: 32, 128: 64}[swizzle], 24),
            corner,
            swizzle,
        )
    boxes: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
        ((80,), (32,), (60,)),
        ((5, 6, 16), (8, 4, 3), (4, 3, 3)),
        ((3, 4, 5, 16), (16, 3, 2, 2), (0, 4, -1, 2)),
        ((2, 3, 4, 5, 8), (8, 2, 3, 2, 2), (0, 1, 2, 2, 1)),
    ]
    for shape, box, at in boxes:
        yield _tile(f"tile of {len(shape)} dimensions", rng.integers(1, 65536, shape).astype(np.uint16), box, at, 0)
    for kind in (np.uint8, np.uint32, np.float32):
        source = rng.integers(1, 200, (16, 64)).astype(kind)
        yield _tile(f"tile of {np.dtype(kind).name}", source, (32, 8), (16, 4), 0)
    image = rng.integers(1, 65536, (2, 5, 6, 16)).astype(np.uint16)
    for tap, first in (((0, 0), (0, 0, 0)), ((2, 1), (0, 1, 1)), ((1, 2), (1, 0, 3))):
        yield _im2col(image, tap, first)
    for mask in (0b11, 0b01, 0b10):
        yield _multicast(rng, mask)
    yield _reduction(rng)


def _map(buffer: str, array: np.ndarray, box: tuple[int, ...], swizzle: int = 0, **more: Any) -> TensorMapArg:
    kind = {"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "float32": "float32"}[array.dtype.name]
    return TensorMapArg(buffer, kind, array.shape[::-1], array.strides[:-1][::-1], box, swizzle, **more)


def _tile(name: str, array: np.ndarray, box: tuple[int, ...], at: tuple[int, ...], swizzle: int) -> Case:
    rank = len(box)
    params = ", ".join(f"int c{i}" for i in range(rank))
    regs = ", ".join(f'"r"(c{i})' for i in range(rank))
    load, store = (", ".join(f"%{base + i}" for i in range(rank)) for base in (3, 2))
    source = f"""GLOBAL k(u32* out, const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to,
                          int bytes, {params}) {{
      const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 32768;
      for (int i = t; i < 8192; i += 32) ((u32*)smem)[i] = 0xABABABABu;
      barrier_ready(bar, 1);
      if (t == 0) {{ expect(bar, bytes);
        asm volatile("cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                     " [%0], [%1, {{{load}}}], [%2];" :: "r"(base), "l"(&from), "r"(bar), {regs} : "memory"); }}
      wait(bar, 0);
      for (int i = t; i < 8192; i += 32) out[i] = ((u32*)smem)[i];
      __syncthreads();
      if (t == 0) {{ asm volatile("cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group"
                                  " [%0, {{{store}}}], [%1];" :: "l"(&to), "r"(base), {regs} : "memory");
                     stored(); }} }}"""
    arrays = {"workspace": _out(8192), "a": array, "out": np.zeros_like(array)}
    nbytes = int(np.prod(box)) * array.itemsize
    return _case(
        f"tma {name}",
        source,
        "k",
        arrays,
        _map("a", array, box, swizzle),
        _map("out", array, box, swizzle),
        nbytes,
        *at,
        shared=32768 + 64,
        hopper=True,
    )


def _im2col(image: np.ndarray, tap: tuple[int, int], first: tuple[int, int, int]) -> Case:
    source = """GLOBAL k(u32* out, const __grid_constant__ TensorMap from, int bytes, int x, int y, int n,
                         int s, int r) {
      const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 4096;
      barrier_ready(bar, 1);
      if (t == 0) { expect(bar, bytes);
        asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
                     " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};"
          :: "r"(base), "l"(&from), "r"(bar), "r"(8), "r"(x), "r"(y), "r"(n), "h"((u16)s), "h"((u16)r) : "memory"); }
      wait(bar, 0);
      for (int i = t; i < bytes / 4; i += 32) out[i] = ((u32*)smem)[i]; }"""
    mapped = _map("a", image, (8, 24), im2col=Im2Col((-1, -1), (-1, -1), 8, 24))
    n, y, x = first
    return _case(
        f"tma im2col tap {tap} from {first}",
        source,
        "k",
        {"out": _out(96), "a": image},
        mapped,
        384,
        x - 1,
        y - 1,
        n,
        tap[1],
        tap[0],
        shared=4096 + 64,
        hopper=True,
    )


def _multicast(rng: np.random.Generator, mask: int) -> Case:
    source = """GLOBAL k(u32* out, const __grid_constant__ TensorMap from, int mask) {
      u32 rank; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
      const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 4096;
      barrier_ready(bar, 1);
      if (t == 0 && mask >> rank & 1) expect(bar, 1024);
      asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
      if (t == 0 && rank == 0)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
          " [%0], [%1, {%3, %3}], [%2], %4;" :: "r"(base), "l"(&from), "r"(bar), "r"(0), "h"((u16)mask) : "memory");
      if (mask >> rank & 1) { wait(bar, 0); for (int i = t; i < 256; i += 32) out[rank * 256 + i] = ((u32*)smem)[i]; }
      asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }"""
    array = rng.integers(1, 65536, (8, 64)).astype(np.uint16)
    return _case(
        f"tma multicast mask {mask:b}",
        source,
        "k",
        {"out": _out(512), "a": array},
        _map("a", array, (64, 8)),
        mask,
        cluster=2,
        shared=4096 + 64,
        hopper=True,
    )


def _reduction(rng: np.random.Generator) -> Case:
    source = """GLOBAL k(const float* a, const __grid_constant__ TensorMap to) {
      const int t = threadIdx.x; const u32 base = shared_address(smem);
      for (int i = t; i < 128; i += 32) ((float*)smem)[i] = a[i];
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); __syncthreads();
      if (t == 0) { asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group"
                                 " [%0, {%2, %3}], [%1];" :: "l"(&to), "r"(base), "r"(4), "r"(6) : "memory");
                    stored(); } }"""
    target = np.ones((10, 16), np.float32)
    values = rng.integers(-9, 10, 128).astype(np.float32)
    return _case(
        "tma reduction",
        source,
        "k",
        {"a": values, "out": target},
        _map("out", target, (16, 8)),
        shared=1024,
        hopper=True,
    )


_UNARY = {  # name: (PTX, output register, compute capability, tolerance)
    "cvt e4m3x2": ("cvt.rn.satfinite.e4m3x2.f32 h, %1, %1;\\nmov.b32 %0, {h, h};", 89, 0.0),
    "cvt e5m2x2": ("cvt.rn.satfinite.e5m2x2.f32 h, %1, %1;\\nmov.b32 %0, {h, h};", 89, 0.0),
    "cvt f16": ("cvt.rn.f16.f32 h, %1;\\nmov.b32 %0, {h, h};", 75, 0.0),
    "cvt bf16": ("cvt.rn.bf16.f32 h, %1;\\nmov.b32 %0, {h, h};", 80, 0.0),
    "cvt f16x2 rz": ("cvt.rz.f16x2.f32 %0, %1, %1;", 80, 0.0),
    "cvt bf16x2 relu": ("cvt.rn.relu.bf16x2.f32 %0, %1, %1;", 80, 0.0),
    "cvt tf32": ("cvt.rna.tf32.f32 %0, %1;", 80, 0.0),
    "cvt s32 rni": ("cvt.rni.s32.f32 %0, %1;", 75, 0.0),
    "cvt s8 sat": ("cvt.rni.s32.f32 %0, %1;\\ncvt.sat.s8.s32 %0, %0;", 75, 0.0),
    "ex2": ("ex2.approx.ftz.f32 %0, %2;", 75, 2.0**-20),
    "lg2": ("lg2.approx.ftz.f32 %0, %3;", 75, 2.0**-18),
    "rcp": ("rcp.approx.ftz.f32 %0, %3;", 75, 2.0**-20),
    "rsqrt": ("rsqrt.approx.ftz.f32 %0, %3;", 75, 2.0**-20),
    "tanh": ("tanh.approx.f32 %0, %2;", 75, 2.0**-9),
}


def scalar(rng: np.random.Generator) -> Iterator[Case]:
    """Conversions bit for bit, approximate functions within the documented error, warp-wide and atomic instructions."""
    values = (rng.standard_normal(1024) * 2.0 ** rng.integers(-24, 20, 1024)).astype(np.float32)
    values[:16] = [0, -0.0, np.inf, -np.inf, np.nan, 448, 464, 465, 57344, 61440, 65504, 65520, 2.5, 3.5, -0.5, 1e-40]
    for name, (text, cc, tolerance) in _UNARY.items():
        c = "f" if tolerance else "r"
        kind = "float" if tolerance else "u32"
        source = f"""GLOBAL k(const float* a, {kind}* out) {{
          const float x = a[threadIdx.x], small = x / (1 + fabsf(x)) * 8, positive = fabsf(small) + 0.01f; {kind} r;
          asm volatile("{{\\n.reg .b16 h;\\n{text}\\n}}" : "={c}"(r) : "f"(x), "f"(small), "f"(positive));
          out[threadIdx.x] = r; }}"""
        arrays = {"a": values[5:] if tolerance else values, "out": _out(1024)}
        arrays["a"] = np.resize(
            np.nan_to_num(arrays["a"], nan=1.0, posinf=9.0, neginf=-9.0) if tolerance else arrays["a"], 1024
        )
        yield _case(name, source, "k", arrays, block=1024, min_cc=cc, tolerance=tolerance)
    source = """GLOBAL k(const u32* a, u32* out) {
      const int l = threadIdx.x; const u32 v = a[l]; int p;
      u32 r[8] = {__shfl_sync(~0u, v, l * 5 & 31), __shfl_up_sync(~0u, v, 3, 16), __shfl_down_sync(~0u, v, 5, 8),
                  __shfl_xor_sync(~0u, v, 9), __ballot_sync(~0u, v & 1), __match_any_sync(~0u, v & 3),
                  __match_all_sync(~0u, v & 0, &p), __byte_perm(v, a[l ^ 1], v >> 7)};
      for (int i = 0; i < 8; ++i) out[i * 32 + l] = r[i]; }"""
    yield _case("warp exchange", source, "k", {"a": _words(rng, 32), "out": _out(256)}, min_cc=75)
    source = """GLOBAL k(const u32* a, u32* out) {
      const int l = threadIdx.x; const u32 v = a[l];
      u32 r[6] = {__reduce_add_sync(~0u, v), __reduce_min_sync(~0u, v), __reduce_max_sync(~0u, (int)v),
                  __reduce_and_sync(~0u, v), __reduce_or_sync(~0u, v), __reduce_xor_sync(~0u, v)};
      for (int i = 0; i < 6; ++i) out[i * 32 + l] = r[i]; }"""
    yield _case("redux", source, "k", {"a": _words(rng, 32), "out": _out(192)})
    source = """GLOBAL k(const u32* a, u32* out) {
      const int l = threadIdx.x;
      atomicAdd(out, a[l]); atomicMin(out + 1, a[l]); atomicMax((int*)out + 2, (int)a[l]); atomicXor(out + 3, a[l]);
      atomicAdd((float*)out + 4, (float)(int)(a[l] & 15)); atomicInc(out + 5, 20u); atomicDec(out + 6, 20u);
      asm volatile("red.global.add.noftz.f16x2 [%0], %1;"
                   :: "l"(__cvta_generic_to_global(out + 7)), "r"(0x40003C00u) : "memory"); }"""
    yield _case("atomics", source, "k", {"a": _words(rng, 32), "out": np.arange(8, dtype=np.uint32)}, min_cc=75)
    for size, valid in ((4, 4), (8, 4), (16, 16), (16, 12), (16, 0)):
        source = f"""GLOBAL k(const u8* a, u32* out) {{
          const int l = threadIdx.x; for (int i = l; i < 128; i += 32) ((u32*)smem)[i] = 0x77777777u; __syncthreads();
          asm volatile("cp.async.ca.shared.global [%0], [%1], {size}, {valid};\\ncp.async.wait_all;"
            :: "r"(shared_address(smem) + l * 16), "l"(__cvta_generic_to_global(a + l * {size})) : "memory");
          __syncthreads(); for (int i = l; i < 128; i += 32) out[i] = ((u32*)smem)[i]; }}"""
        arrays = {"a": rng.integers(0, 256, 32 * size, dtype=np.uint8), "out": np.full(128, 7, np.uint32)}
        yield _case(f"cp.async {valid} of {size} bytes", source, "k", arrays, shared=512)


def small_types(rng: np.random.Generator) -> Iterator[Case]:
    """mma.sync of 4-bit integers, single bits and doubles: any bits are good operands (doubles: small integers)."""
    pairs = list(itertools.product(("s4", "u4"), repeat=2))
    forms = [(m, k, 4, f"s32.{a}.{b}.s32") for m, k in ((8, 32), (16, 32), (16, 64)) for a, b in pairs]
    forms += [
        (m, k, 1, f"s32.b1.b1.s32.{op}.popc") for m, k in ((8, 128), (16, 128), (16, 256)) for op in ("xor", "and")
    ]
    forms += [(m, k, 64, "f64.f64.f64.f64") for m, k in ((8, 4), (16, 4), (16, 8), (16, 16))]
    for m, k, bits, types in forms:
        word, c_type, c = (64, "double", "d") if bits == 64 else (32, "u32", "r")
        na, nb, nc = m * k * bits // 32 // word, 8 * k * bits // 32 // word, m // 4
        ends = (0, nc, nc + na, nc + na + nb)
        d, a, b = (", ".join(f"%{i}" for i in range(*pair)) for pair in itertools.pairwise(ends))
        ins = [f'"{c}"({name}[{i} * 32 + l])' for name, n in (("a", na), ("b", nb)) for i in range(n)]
        source = f"""GLOBAL k(const {c_type}* a, const {c_type}* b, {c_type}* out) {{
          const int l = threadIdx.x; {c_type} d[{nc}]; for (int i = 0; i < {nc}; ++i) d[i] = out[i * 32 + l];
          asm volatile("mma.sync.aligned.m{m}n8k{k}.row.col.{types} {{{d}}}, {{{a}}}, {{{b}}}, {{{d}}};"
            : {", ".join(f'"+{c}"(d[{i}])' for i in range(nc))} : {", ".join(ins)});
          for (int i = 0; i < {nc}; ++i) out[i * 32 + l] = d[i]; }}"""
        arrays = {n: _words(rng, count * 32) for n, count in (("a", na), ("b", nb), ("out", nc))}
        if bits == 64:
            arrays = {n: rng.integers(-9, 10, w.size).astype(np.float64) for n, w in arrays.items()}
        cc = 90 if bits == 64 and m == 16 else 80
        yield _case(f"mma m{m}n8k{k} {types.replace('.', ' ')}", source, "k", arrays, min_cc=cc)


def rarer(rng: np.random.Generator) -> Iterator[Case]:
    """24-bit products, packing with saturation, vector atomics, the state of an mbarrier, im2col stores."""
    texts = [f"mul24.{part}.{t} %0, %1, %2;" for part in ("lo", "hi") for t in ("u32", "s32")]
    texts += ["mad24.lo.s32 %0, %1, %2, %3;", "mad24.hi.sat.s32 %0, %1, %2, %3;"]
    texts += [f"cvt.pack.sat.{t}.s32.b32 %0, %1, %2, %3;" for t in ("u8", "s8", "u4", "s4", "u2", "s2")]
    texts += ["cvt.pack.sat.u16.s32 %0, %1, %2;", "cvt.pack.sat.s16.s32 %0, %1, %2;"]
    for text in texts:
        source = f"""GLOBAL k(const u32* a, u32* out) {{
          const int l = threadIdx.x; const u32 x = a[l], y = a[32 + l], z = a[64 + l]; u32 r;
          asm volatile("{text}" : "=r"(r) : "r"(x), "r"(y), "r"(z)); out[l] = r; }}"""
        words = _words(rng, 96)
        words[::3] >>= np.uint32(20)  # some that do not saturate
        yield _case(text.split()[0], source, "k", {"a": words, "out": _out(32)}, min_cc=75)
    source = """GLOBAL k(const float2* a, u32* out) {
      const int l = threadIdx.x; float2 v = a[l], r; const u64 to = (u64)__cvta_generic_to_global(out);
      asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" :: "l"(to), "f"(v.x), "f"(v.y) : "memory");
      asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %1, %2};" :: "l"(to + 16), "f"(v.x), "f"(v.y) : "memory");
      asm volatile("red.global.add.noftz.v2.f16x2 [%0], {%1, %1};" :: "l"(to + 32), "r"(0x40003C00u) : "memory");
      asm volatile("atom.global.max.noftz.v2.bf16x2 {%0, %1}, [%2], {%3, %3};"
                   : "=f"(r.x), "=f"(r.y) : "l"(to + 40), "r"(0x3F804000u + l) : "memory"); }"""
    source = source.replace('"=f"(r.x), "=f"(r.y)', '"=r"(*(u32*)&r.x), "=r"(*(u32*)&r.y)')
    values = rng.integers(-5, 6, 64).astype(np.float32)
    yield _case("vector atomics", source, "k", {"a": values, "out": _out(12)}, min_cc=90)
    source = """GLOBAL k(u32* out) {
      const u32 bar = shared_address(smem); u64 state; u32 count;
      if (threadIdx.x) return;
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 3;" :: "r"(bar) : "memory");
      for (int i = 0; i < 5; ++i) {
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%2];\\nmbarrier.pending_count.b64 %1, %0;"
                     : "=l"(state), "=r"(count) : "r"(bar) : "memory");
        out[i] = count; } }"""
    yield _case("mbarrier pending count", source, "k", {"out": _out(5)}, shared=64)
    image, pixels, channels = np.zeros((2, 3, 5, 16), np.uint16), 20, 8
    source = """GLOBAL k(const __grid_constant__ TensorMap to, const u32* a, int bytes) {
      const int l = threadIdx.x; for (int i = l; i < bytes / 4; i += 32) ((u32*)smem)[i] = a[i];
      asm volatile("fence.proxy.async;" ::: "memory"); __syncthreads();
      if (l == 0) { asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
        :: "l"(&to), "r"(shared_address(smem)), "r"(8), "r"(-1), "r"(0), "r"(0) : "memory"); stored(); } }"""
    out = _map("out", image, (channels, pixels), im2col=Im2Col((-1, -1), (1, 1), channels, pixels))
    arrays = {"a": _words(rng, pixels * channels // 2), "out": image}
    step = KernelStep(
        "k", (1, 1, 1), (32, 1, 1), (out, BufferArg("a"), _argument(pixels * channels * 2)), 8192, (1, 1, 1)
    )
    yield Case("im2col store", HEAD + HOPPER + source, LaunchPlan((step,)), arrays, hopper=True)


def all_cases(seed: int = 5) -> list[Case]:
    """Every case, always the same for a seed."""
    rng = np.random.default_rng(seed)
    return [case for make in (scalar, matrices, mma, wgmma, tma, small_types, rarer) for case in make(rng)]
