"""Planted bugs: instructions for a whole warp that only some lanes execute.

PTX asks of an ``.aligned`` instruction that all threads of the warp execute the same one; it may stand in conditional
code only when they all evaluate the condition alike. (It does not ask for a ``bar.warp.sync`` before: lanes that parted
meet again behind the branch.)
"""

from __future__ import annotations

from typing import Any

from tests.helpers.emulator.planted.bug import plant, words


def plant_partial(name: str, instruction: str, *, report: str = "", **more: Any) -> None:
    """``instruction`` with the whole warp, or with its lanes 0 to 15 alone."""
    plant(
        f"{name} by half a warp",
        f"""
GLOBAL __launch_bounds__(128, 1) k(u32* out) {{
  SMEM; const u32 t = threadIdx.x, base = shared_address(smem); u32 r = 0;
  ((u32*)smem)[t] = t;
  __syncthreads();
#ifdef BUG
  if (t % 32 < 16)
#endif
    {{ {instruction} }}
  out[t] = r + 1;
}}
""",
        report or r"divergence",
        words(128),
        launch={"block": 128, "shared": 1024, **more.pop("launch", {})},
        hopper=True,
        **more,
    )


LDMATRIX = (
    'asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"'
    ' : "=r"(r) : "r"(base + t % 8 * 16));  // HERE\n'
)
MMA = (
    'asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"'
    ' : "+r"(r), "+r"(q) : "r"(t), "r"(t));  // HERE\n'
)
plant_partial("ldmatrix", LDMATRIX)
plant_partial("mma.sync", "u32 q = 0; " + MMA + " r += q;")
plant_partial("setmaxnreg", 'asm volatile("setmaxnreg.dec.sync.aligned.u32 64;");  // HERE\n')
plant_partial("wgmma.fence", "wgmma_fence();  // HERE\n")
plant_partial("wgmma.wait_group", "wgmma_wait();  // HERE\n")
plant_partial("bar.sync", 'asm volatile("bar.sync 1, 128;" ::: "memory");  // HERE\n')
plant_partial("barrier.cta.sync.aligned", 'asm volatile("barrier.sync.aligned 1, 128;" ::: "memory");  // HERE\n')
plant_partial("aligned cluster barrier", "cluster_sync();  // HERE\n")

plant(
    "mma.sync as often as each lane likes",
    rf"""
GLOBAL k(u32* out) {{
  const u32 t = threadIdx.x; u32 r = 0, q = 0;
#ifdef BUG
  const u32 n = 1 + t % 3;
#else
  const u32 n = 3;
#endif
#pragma unroll 1
  for (u32 i = 0; i < n; ++i) {MMA}
  out[t] = r + q;
}}
""",
    r"divergence",
    words(32),
    hopper=True,
)

plant(
    "two halves of a warp, each with an mma.sync of its own",
    rf"""
GLOBAL k(u32* out) {{
  const u32 t = threadIdx.x; u32 r = 0, q = 0;
#ifdef BUG
  if (t & 1) {{ {MMA} r += 3; }} else {{ {MMA.replace("  // HERE", "")} q *= 5; }}
#else
  {MMA.replace("  // HERE", "")}
#endif
  out[t] = r + q;
}}
""",
    r"divergence.*are here",
    words(32),
    hopper=True,
    named=False,
)

plant(
    "shuffle by lanes that its member mask does not name",
    r"""
GLOBAL k(const u32* a, u32* b) {
  const u32 t = threadIdx.x;
#ifdef BUG
  b[t] = __shfl_xor_sync(0xffff, a[t], 1);  // HERE
#else
  b[t] = __shfl_xor_sync(t < 16 ? 0xffffu : 0xffff0000u, a[t], 1);
#endif
}
""",
    r"divergence.*member mask.*does not name",
    words(32, 32),
)

plant(
    "__syncwarp that names lanes which never come",
    r"""
GLOBAL k(const u32* a, u32* b) {
  const u32 t = threadIdx.x; u32 x = a[t];
#ifdef BUG
  const u32 members = 0xffffffff;
#else
  const u32 members = 0xff;
#endif
  if (t < 8) {
    __syncwarp(members);  // HERE
    x += 5;
  }
  __syncthreads();
  b[t] = x;
}
""",
    r"divergence.*0x000000ff are here",
    words(32, 32),
)
