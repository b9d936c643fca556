"""Cases of everything else: conversions, packing, atomics, copies, barriers, approximate functions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.conformance.case import Case, make, words, zeros

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
        arrays = {"a": values[5:] if tolerance else values, "out": zeros(1024)}
        arrays["a"] = np.resize(
            np.nan_to_num(arrays["a"], nan=1.0, posinf=9.0, neginf=-9.0) if tolerance else arrays["a"], 1024
        )
        yield make(name, source, "k", arrays, block=1024, min_cc=cc, tolerance=tolerance)
    source = """GLOBAL k(const u32* a, u32* out) {
      const int l = threadIdx.x; const u32 v = a[l]; int p;
      u32 r[8] = {__shfl_sync(~0u, v, l * 5 & 31), __shfl_up_sync(~0u, v, 3, 16), __shfl_down_sync(~0u, v, 5, 8),
                  __shfl_xor_sync(~0u, v, 9), __ballot_sync(~0u, v & 1), __match_any_sync(~0u, v & 3),
                  __match_all_sync(~0u, v & 0, &p), __byte_perm(v, a[l ^ 1], v >> 7)};
      for (int i = 0; i < 8; ++i) out[i * 32 + l] = r[i]; }"""
    yield make("warp exchange", source, "k", {"a": words(rng, 32), "out": zeros(256)}, min_cc=75)
    source = """GLOBAL k(const u32* a, u32* out) {
      const int l = threadIdx.x; const u32 v = a[l];
      u32 r[6] = {__reduce_add_sync(~0u, v), __reduce_min_sync(~0u, v), __reduce_max_sync(~0u, (int)v),
                  __reduce_and_sync(~0u, v), __reduce_or_sync(~0u, v), __reduce_xor_sync(~0u, v)};
      for (int i = 0; i < 6; ++i) out[i * 32 + l] = r[i]; }"""
    yield make("redux", source, "k", {"a": words(rng, 32), "out": zeros(192)})
    source = """GLOBAL k(const u32* a, u32* out) {
      const int l = threadIdx.x;
      atomicAdd(out, a[l]); atomicMin(out + 1, a[l]); atomicMax((int*)out + 2, (int)a[l]); atomicXor(out + 3, a[l]);
      atomicAdd((float*)out + 4, (float)(int)(a[l] & 15)); atomicInc(out + 5, 20u); atomicDec(out + 6, 20u);
      asm volatile("red.global.add.noftz.f16x2 [%0], %1;"
                   :: "l"(__cvta_generic_to_global(out + 7)), "r"(0x40003C00u) : "memory"); }"""
    yield make("atomics", source, "k", {"a": words(rng, 32), "out": np.arange(8, dtype=np.uint32)}, min_cc=75)
    for size, valid in ((4, 4), (8, 4), (16, 16), (16, 12), (16, 0)):
        source = f"""GLOBAL k(const u8* a, u32* out) {{
          const int l = threadIdx.x; for (int i = l; i < 128; i += 32) ((u32*)smem)[i] = 0x77777777u; __syncthreads();
          asm volatile("cp.async.ca.shared.global [%0], [%1], {size}, {valid};\\ncp.async.wait_all;"
            :: "r"(shared_address(smem) + l * 16), "l"(__cvta_generic_to_global(a + l * {size})) : "memory");
          __syncthreads(); for (int i = l; i < 128; i += 32) out[i] = ((u32*)smem)[i]; }}"""
        arrays = {"a": rng.integers(0, 256, 32 * size, dtype=np.uint8), "out": np.full(128, 7, np.uint32)}
        yield make(f"cp.async {valid} of {size} bytes", source, "k", arrays, shared=512)


def rarer(rng: np.random.Generator) -> Iterator[Case]:
    """24-bit products, packing with saturation, vector atomics, the state of an mbarrier."""
    texts = [f"mul24.{part}.{t} %0, %1, %2;" for part in ("lo", "hi") for t in ("u32", "s32")]
    texts += ["mad24.lo.s32 %0, %1, %2, %3;", "mad24.hi.sat.s32 %0, %1, %2, %3;"]
    texts += [f"cvt.pack.sat.{t}.s32.b32 %0, %1, %2, %3;" for t in ("u8", "s8", "u4", "s4", "u2", "s2")]
    texts += ["cvt.pack.sat.u16.s32 %0, %1, %2;", "cvt.pack.sat.s16.s32 %0, %1, %2;"]
    for text in texts:
        source = f"""GLOBAL k(const u32* a, u32* out) {{
          const int l = threadIdx.x; const u32 x = a[l], y = a[32 + l], z = a[64 + l]; u32 r;
          asm volatile("{text}" : "=r"(r) : "r"(x), "r"(y), "r"(z)); out[l] = r; }}"""
        operands = words(rng, 96)
        operands[::3] >>= np.uint32(20)  # some that do not saturate
        yield make(text.split()[0], source, "k", {"a": operands, "out": zeros(32)}, min_cc=75)
    source = """GLOBAL k(const float2* a, u32* out) {
      const int l = threadIdx.x; float2 v = a[l], r; const u64 to = (u64)__cvta_generic_to_global(out);
      asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" :: "l"(to), "f"(v.x), "f"(v.y) : "memory");
      asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %1, %2};" :: "l"(to + 16), "f"(v.x), "f"(v.y) : "memory");
      asm volatile("red.global.add.noftz.v2.f16x2 [%0], {%1, %1};" :: "l"(to + 32), "r"(0x40003C00u) : "memory");
      asm volatile("atom.global.max.noftz.v2.bf16x2 {%0, %1}, [%2], {%3, %3};"
                   : "=f"(r.x), "=f"(r.y) : "l"(to + 40), "r"(0x3F804000u + l) : "memory"); }"""
    source = source.replace('"=f"(r.x), "=f"(r.y)', '"=r"(*(u32*)&r.x), "=r"(*(u32*)&r.y)')
    values = rng.integers(-5, 6, 64).astype(np.float32)
    yield make("vector atomics", source, "k", {"a": values, "out": zeros(12)}, min_cc=90)
    source = """GLOBAL k(u32* out) {
      const u32 bar = shared_address(smem); u64 state; u32 count;
      if (threadIdx.x) return;
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 3;" :: "r"(bar) : "memory");
      for (int i = 0; i < 5; ++i) {
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%2];\\nmbarrier.pending_count.b64 %1, %0;"
                     : "=l"(state), "=r"(count) : "r"(bar) : "memory");
        out[i] = count; } }"""
    yield make("mbarrier pending count", source, "k", {"out": zeros(5)}, shared=64)
