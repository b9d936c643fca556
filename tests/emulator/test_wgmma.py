"""wgmma against NumPy: types, sizes, both majors, all swizzles, A from registers, scales of D, A and B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.helpers.emulator.fragments import DTYPES, Operand, integers, pack_a, unpack_wgmma
from tests.helpers.emulator.metadata import chosen, dense, words_of
from tests.helpers.emulator.snippets import HOPPER, needs_emulator, needs_nvrtc, result, run

pytestmark = [needs_emulator, needs_nvrtc]


@dataclass(frozen=True)
class Form:
    """wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{a}.{b}; with a selector, .sp, whose A holds half of the columns"""

    n: int
    d: str
    a: str
    b: str
    major_a: int = 0
    major_b: int = 0
    registers: bool = False
    scale_a: int = 1
    scale_b: int = 1
    extra: str = ""
    selector: int = -1

    @property
    def k(self) -> int:
        return (32 if self.selector < 0 else 64) // np.dtype(DTYPES[self.a]).itemsize

    @property
    def name(self) -> str:
        majors = f"{'mn' if self.major_a else 'k'}{'mn' if self.major_b else 'k'}"
        signs = "".join("p" if s > 0 else "m" for s in (self.scale_a, self.scale_b))
        sparse = "" if self.selector < 0 else f"_sp{self.selector}"
        where = "rs" if self.registers else "ss"
        return f"n{self.n}_{self.d}_{self.a}_{self.b}_{majors}_{where}_{signs}{self.extra.replace('.', '_')}{sparse}"

    def kernel(self) -> str:
        count = self.n // (4 if self.d == "f16" else 2)
        dc, dtype = ("f", "float") if self.d == "f32" else ("r", "u32")
        outs = ", ".join(f'"+{dc}"(d[{i}])' for i in range(count))
        places = ", ".join(f"%{i}" for i in range(count))
        if self.registers:
            ins, a_text, after = (
                '"r"(A[0]), "r"(A[1]), "r"(A[2]), "r"(A[3])',
                "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}",
                count + 4,
            )
        else:
            ins, a_text, after = '"l"(da)', f"%{count}", count + 1
        integer = self.d == "s32"
        scales = "" if integer else f", {self.scale_a}, {self.scale_b}"
        majors = ""
        if self.a in ("f16", "bf16"):
            majors = f", {self.major_b}" if self.registers else f", {self.major_a}, {self.major_b}"
        sp, meta = (".sp", f", %{after + 2}, {self.selector}") if self.selector >= 0 else ("", "")
        opcode = f"wgmma.mma_async{sp}.sync.aligned.m64n{self.n}k{self.k}.{self.d}.{self.a}.{self.b}{self.extra}"
        guarded = (
            f"setp.ne.b32 p, %{after + 1}, 0;\\n{opcode} {{{places}}}, {a_text}, %{after}{meta}, p{scales}{majors};"
        )
        parameter = ", const u32* meta" if meta else ""
        return f"""GLOBAL __launch_bounds__(128, 1)
{self.name}(const u32* a, const u32* b, {dtype}* out{parameter}, u64 da, u64 db, int accumulate) {{
  SMEM; const int t = threadIdx.x;
  for (int i = t; i < 8192; i += 128) {{ ((u32*)smem)[i] = a[i]; ((u32*)smem)[8192 + i] = b[i]; }}
  fence_proxy_async(); __syncthreads();
  const u32 base = shared_address(smem);
  da |= (base & 0x3FFFF) >> 4; db |= ((base + 32768) & 0x3FFFF) >> 4;
  u32 A[4]; for (int i = 0; i < 4; ++i) A[i] = a[i * 128 + t];
  {dtype} d[{count}]; for (int i = 0; i < {count}; ++i) d[i] = out[i * 128 + t];
  wgmma_fence();
  asm volatile("{{\\n.reg .pred p;\\n{guarded}\\n}}"
               : {outs} : {ins}, "l"(db), "r"(accumulate){', "r"(meta[t])' if meta else ""});
  wgmma_commit(); wgmma_wait();
  for (int i = 0; i < {count}; ++i) out[i * 128 + t] = d[i];
}}
"""


TYPES = [
    ("f32", "f16", "f16"),
    ("f16", "f16", "f16"),
    ("f32", "bf16", "bf16"),
    ("f32", "tf32", "tf32"),
    ("s32", "s8", "s8"),
    ("s32", "u8", "s8"),
    ("s32", "s8", "u8"),
    ("s32", "u8", "u8"),
    *((d, a, b) for d in ("f32", "f16") for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")),
]
FORMS = [
    *(Form(64, *t) for t in TYPES),
    *(Form(64, *t, registers=True) for t in TYPES),
    *(Form(n, "f32", "f16", "f16") for n in (8, 16, 24, 96, 128, 248, 256)),
    *(Form(n, "s32", "s8", "s8") for n in (8, 24, 48, 256)),
    *(Form(64, "f32", t, t, a, b) for t in ("f16", "bf16") for a, b in ((0, 1), (1, 0), (1, 1))),
    *(Form(n, "f32", "f16", "f16", 0, 1) for n in (8, 16, 128, 256)),
    Form(64, "f32", "f16", "f16", 0, 1, registers=True),
    *(Form(16, "f32", "f16", "f16", scale_a=a, scale_b=b) for a, b in ((1, -1), (-1, 1), (-1, -1))),
    Form(16, "s32", "s8", "s8", extra=".satfinite"),
    *(
        Form(n, *t, selector=s)
        for n, t, s in ((8, TYPES[0], 0), (256, TYPES[2], 1), (64, TYPES[3], 1), (32, TYPES[4], 0))
    ),
    *(Form(64, *t, registers=r, selector=0) for t, r in ((TYPES[0], True), (TYPES[0], False), (TYPES[3], True))),
    *(Form(64, *TYPES[k], registers=k == 8, selector=0) for k in (8, 9)),
    Form(64, "f16", "f16", "f16", 1, 1, selector=1, scale_a=-1),
]
SOURCES = {f.name: HOPPER + f.kernel() for f in FORMS}


def swizzles(form: Form) -> list[tuple[int, int]]:
    """Swizzle of A and B; an MN-major atom must divide the size along M or N; a row of a sparse B has 64 bytes."""
    rows = 32 if form.selector >= 0 and not form.major_b else 0
    fits_b = [s for s in (0, 32, 64, 128) if not (form.major_b and s and form.n % (s // 2)) and not s == rows > 0]
    return [(s, fits_b[i % len(fits_b)]) for i, s in enumerate((0, 32, 64, 128))]


def check(form: Form, swizzle: tuple[int, int], accumulate: int = 1, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    sparse = form.selector >= 0
    a, b = integers(rng, form.a, (64, form.k // (1 + sparse))), integers(rng, form.b, (form.n, form.k))
    which = [chosen(rng, form) for _ in range(4 * sparse)]
    meta = [np.concatenate([words_of(w, form, rng) for w in which])] if sparse else []
    left, right = Operand(a, swizzle[0], bool(form.major_a)), Operand(b, swizzle[1], bool(form.major_b))
    image = left.image[:32768]
    if form.registers:
        image = np.zeros(8192, np.uint32)
        for warp in range(4):
            image[:512].reshape(4, 128)[:, 32 * warp : 32 * warp + 32] = pack_a(a[16 * warp : 16 * warp + 16])
    start = rng.integers(-8, 9, (form.n // (4 if form.d == "f16" else 2), 128))
    dtype = DTYPES[form.d]
    out = (
        np.stack([start, start], -1).astype(dtype).view(np.uint32)[..., 0] if form.d == "f16" else start.astype(dtype)
    ).copy()
    before = unpack_wgmma(out, form.n, dtype).astype(np.float64)
    report = run(
        SOURCES[form.name],
        form.name,
        [image, right.image[:32768], out, *meta],
        [left.descriptor, right.descriptor, accumulate],
        block=128,
        shared=65536,
        seed=seed,
    )
    got = unpack_wgmma(result(report, 2), form.n, dtype).astype(np.float64)
    if sparse:
        a = np.concatenate([dense(a[16 * q : 16 * q + 16], which[q], form) for q in range(4)])
    sign = form.scale_a * form.scale_b
    assert np.array_equal(got, sign * (a.astype(np.float64) @ b.astype(np.float64).T) + (before if accumulate else 0))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_all_swizzles(form: Form) -> None:
    for swizzle in swizzles(form):
        check(form, swizzle, seed=swizzle[0])


@pytest.mark.parametrize("kind", [("f32", "f16"), ("s32", "s8")])
def test_accumulators_may_be_ignored(kind: tuple[str, str]) -> None:
    check(Form(64, kind[0], kind[1], kind[1]), (128, 128), accumulate=0)


def test_bad_metadata_and_rows_wider_than_their_swizzle_are_found() -> None:
    form, rng = next(f for f in FORMS if f.selector == 0 and f.a == "f16" and not f.registers), np.random.default_rng(1)
    meta = np.concatenate([words_of(chosen(rng, form), form, rng) for _ in range(4)])
    wrong = meta.copy()
    wrong[32 + 4 * 3] = wrong[32 + 4 * 3] & ~np.uint32(15 << 4) | np.uint32(0b0110 << 4)  # of row 19: 2, then 1
    seen = []
    for words, swizzle in ((meta, 64), (wrong, 64), (meta, 32)):
        a, b = (
            Operand(np.zeros((64, 16), np.float16), 32, False),
            Operand(np.zeros((form.n, 32), np.float16), 64, False),
        )
        b.swizzle = swizzle
        arrays = [a.image[:32768], b.image[:32768], np.zeros((form.n // 2, 128), np.float32), words]
        report = run(SOURCES[form.name], form.name, arrays, [a.descriptor, b.descriptor, 0], block=128, shared=65536)
        seen.append([(f.kind, f.message) for f in report.findings])
    assert seen[0] == [] and [kind for kind, _ in seen[1] + seen[2]] == ["metadata", "wgmma"]
    assert "row 3, column 4 names elements 2 and 1" in seen[1][0][1] and "64 bytes" in seen[2][0][1]


def test_operands_may_start_inside_a_swizzle_atom() -> None:
    """A K step inside a 128-byte row: the start address moves by 32 bytes and the swizzle follows the address."""
    rng, form = np.random.default_rng(3), Form(64, "f32", "f16", "f16")
    a, b = integers(rng, "f16", (64, 64)), integers(rng, "f16", (64, 64))
    left, right = Operand(a, 128, False), Operand(b, 128, False)
    for step in range(4):
        shift = np.uint64(step * 32 >> 4)
        report = run(
            SOURCES[form.name],
            form.name,
            [left.image[:32768], right.image[:32768], np.zeros((32, 128), np.float32)],
            [np.uint64(left.descriptor + shift), np.uint64(right.descriptor + shift), 0],
            block=128,
            shared=65536,
        )
        got = unpack_wgmma(result(report, 2), 64, np.float32)
        columns = slice(16 * step, 16 * step + 16)
        assert np.array_equal(got, a[:, columns].astype(np.float32) @ b[:, columns].astype(np.float32).T)
