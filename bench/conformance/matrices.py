"""Cases of moving matrices and of products on tensor cores: ldmatrix, stmatrix, mma.sync, wgmma."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bench.conformance.case import DTYPES, Case, integers, make, words, zeros


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
            yield make(
                f"ldmatrix x{count}{trans} {trial}",
                source,
                "k",
                {"a": words(rng, 1024), "b": where, "out": zeros(32 * count)},
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
        yield make(
            f"stmatrix x{count}{trans}",
            source,
            "k",
            {"a": words(rng, 128), "b": where, "out": zeros(1024)},
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
            "a": integers(rng, a, m * k).view(np.uint32),
            "b": integers(rng, b, 8 * k).view(np.uint32),
            "out": out,
        }
        yield make(f"mma m{m}n8k{k} {d} {a} {b}", source, "k", arrays, min_cc=cc)


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
    image = np.concatenate([integers(rng, t, 32768 // size).view(np.uint32) for t in (a, b)])
    majors = f"{'mn' if major_a else 'k'} {'mn' if major_b else 'k'}"
    name = f"wgmma n{n} {d} {a} {b} {majors} swizzle {swizzle} offsets {offsets}"
    name += (" A in registers" if registers else "") + ("" if signs == (1, 1) else f" signs {signs}")
    return make(
        name,
        source,
        "k",
        {"a": image, "out": zeros(count * 128)},
        descriptor,
        descriptor,
        block=128,
        shared=65536,
        hopper=True,
    )


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
        arrays = {n: words(rng, count * 32) for n, count in (("a", na), ("b", nb), ("out", nc))}
        if bits == 64:
            arrays = {n: rng.integers(-9, 10, w.size).astype(np.float64) for n, w in arrays.items()}
        cc = 90 if bits == 64 and m == 16 else 80
        yield make(f"mma m{m}n8k{k} {types.replace('.', ' ')}", source, "k", arrays, min_cc=cc)
