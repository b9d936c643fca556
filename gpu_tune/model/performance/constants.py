"""Published constants of streaming multiprocessors; none is fitted to a time of a kernel, but for the few
that ``memory`` and ``fetch`` name.

Intervals are cycles for which one warp instruction occupies a pipe of one of the SM's four sub-partitions. Latencies
are cycles from issue to result. Sources, by the letter in each line:

* G: CUDA C++ programming guide, table "Throughput of native arithmetic instructions" (results per clock and SM).
* D: data sheets and architecture white papers (tensor rates are in :data:`gpu_tune.cuda.device.KNOWN`).
* J: Jia et al. 2018 (arXiv 1804.06826) and 2019 (arXiv 1903.07486): latencies of Volta and Turing.
* S: Sun et al. 2022 (arXiv 2206.02874): latencies and rates of mma, ldmatrix and cp.async on Ampere.
* A: Abdelkhalik et al. 2022 (arXiv 2208.11174): latencies of Ampere's instructions and memories.
* L: Luo et al. 2024 (arXiv 2402.13499): Hopper and Ada: wgmma, mma.sync at 62 % of the peak on Hopper, memories.
* C: Chips and Cheese (chipsandcheese.com), measured latency and bandwidth of L1, L2 and DRAM of each generation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One compute capability.

    Intervals: ``fma`` (FFMA, FADD, FMUL), ``alu``, ``imad``, ``half`` (two 16-bit results a lane), ``xu`` (special
    functions, conversions), ``fp64``. ``mma_share``: of the tensor peak that mma.sync reaches. ``mma_latency``: from
    the end of its interval to the result. Latencies: ``shared``, ``ldmatrix``, ``special``, ``l1``, ``l2``, ``dram``
    (where the memory is busy), ``barrier`` (from the last arrival to the next issue). Bytes per clock and SM:
    ``shared_bytes``, ``l1_bytes`` (plain global accesses), ``l2_bytes``. ``queue``: cycles of work that the memory pipe
    accepts before it blocks issue. ``line``: cycles by which L1 asks L2 for one 128-byte line, whole or part of it;
    ``lines_bound``: what threads fetch is bound by these and by the bytes that L1 takes in at ``shared_bytes``, one
    after the other, and by no bandwidth of L2 (bulk copies do not pass L1). ``pages``: entries of an
    SM's first translation buffer (0: not known to matter), ``translation``: cycles of an SM for a translation that it
    lacks. ``fetch_bytes``: of instructions that reach an SM from L2 in a clock; ``near_fetch_bytes``: that the SM's
    cache hands to the sub-partitions (0: not known to matter). See ``fetch``.
    """

    cc: int
    fma: float
    alu: float
    imad: float
    half: float
    l2: float
    dram: float
    l2_bytes: float
    xu: float = 8.0
    fp64: float = 64.0
    uniform: float = 2.0
    mma_share: float = 1.0
    mma_latency: float = 30.0
    shared: float = 24.0
    ldmatrix: float = 31.0
    special: float = 20.0
    l1: float = 36.0
    barrier: float = 22.0
    shared_bytes: float = 128.0
    l1_bytes: float = 64.0
    queue: float = 120.0
    line: float = 2.0
    lines_bound: bool = False
    pages: int = 0
    translation: float = 0.0
    fetch_bytes: float = 3.0
    near_fetch_bytes: float = 0.0
    narrow_double: bool = False


ARCHITECTURES = {
    a.cc: a
    for a in (
        # G: 64 float, 64 integer, 128 half results. J: on T4 L2 188 cycles, DRAM 296 ns, 1.27 TB/s of L2
        Architecture(
            75, fma=2, alu=2, imad=2, half=2, l2=200, dram=560, l2_bytes=20, shared_bytes=64, narrow_double=True
        ),
        # G: 64, 64, 256. A: shared 23, L1 33, L2 200-260, DRAM 466 idle; S: ldmatrix 29; C: L2 5.1 TB/s at 1.41 GHz
        Architecture(
            80, fma=2, alu=2, imad=2, half=1, fp64=4, l2=260, dram=650, l2_bytes=47, line=1, pages=16, translation=24,
            near_fetch_bytes=16
        ),
        # G: 128, 64, 128. C: RTX 3090 L2 140 ns, DRAM 250 ns, 3.9 TB/s
        Architecture(86, fma=1, alu=2, imad=2, half=2, l2=250, dram=620, l2_bytes=32, narrow_double=True),
        Architecture(87, fma=1, alu=2, imad=2, half=1, l2=250, dram=620, l2_bytes=32),
        # G: 128, 64, 128. C: RTX 4090 L2 107 ns, DRAM 253 ns
        Architecture(89, fma=1, alu=2, imad=2, half=2, l2=270, dram=640, l2_bytes=32, narrow_double=True),
        # G: 128, 64, 256. L: shared 29, L2 261, DRAM 658 idle; mma.sync 62 % of wgmma
        Architecture(
            90, fma=1, alu=2, imad=2, half=1, fp64=2, mma_share=0.62, shared=29, ldmatrix=33, l2=270, dram=750,
            l2_bytes=48, line=1, lines_bound=True
        ),
        # G: 128, 64, 256. mma.sync runs beside tcgen05 at a quarter of its rate (D; so do public B200 ladders)
        Architecture(
            100, fma=1, alu=2, imad=2, half=1, fp64=2, mma_share=0.25, shared=29, ldmatrix=33, l2=300, dram=800,
            l2_bytes=48
        ),
        Architecture(
            103, fma=1, alu=2, imad=2, half=1, mma_share=0.25, shared=29, ldmatrix=33, l2=300, dram=800, l2_bytes=48
        ),
        # D: unified float and integer lanes, 128 of either. C: RTX 5090 L2 130 ns, DRAM 330 ns
        Architecture(120, fma=1, alu=2, imad=1, half=2, l2=300, dram=770, l2_bytes=32, narrow_double=True),
        Architecture(121, fma=1, alu=2, imad=1, half=2, l2=300, dram=770, l2_bytes=32, narrow_double=True),
    )
}  # fmt: skip
DRAM_SHARE = 0.85
"""Of the data sheet's DRAM bandwidth that a stream reaches (C: 0.80-0.93 on all of these)."""
LAUNCH_SECONDS = 2.2e-6
"""From the end of one kernel of a stream to the start of the next, and of a lone launch (public figures: 1.5-3 us)."""
MEMSET_SECONDS = 1.6e-6


def architecture(cc: int) -> Architecture:
    """The constants of ``cc``; those of the nearest lower one that is known stand in for another."""
    return ARCHITECTURES[max((known for known in ARCHITECTURES if known <= cc), default=75)]
