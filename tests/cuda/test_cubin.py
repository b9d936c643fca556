"""The cubin reader against NVIDIA's own cuobjdump, and against damaged files."""

import functools
import random
import re
import struct
import subprocess
from pathlib import Path

import pytest

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.errors import CorruptData

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")

SOURCE = r"""
struct Block { unsigned long long words[16]; };
__device__ __noinline__ float helper(float x, int n) { for (int i = 0; i < n; ++i) x = x * x + i; return x; }
extern "C" __global__ void __launch_bounds__(128) staged(float* x, int n) {
  __shared__ float s[64];
  s[threadIdx.x & 63] = x[threadIdx.x];
  __syncthreads();
  x[n] = s[(threadIdx.x + n) & 63];
  asm volatile("bar.sync 3, 64;");
}
extern "C" __global__ void local_array(float* x, int n, double scale) {
  volatile float l[40];
  for (int i = 0; i < 40; ++i) l[i] = x[i] * scale;
  x[n] = l[n];
}
extern "C" __global__ void calls(float* x, int n) { x[n] = helper(x[0], n); }
extern "C" __global__ void map_by_value(const __grid_constant__ Block m, float* x) {
  x[0] = (float)m.words[threadIdx.x & 15];
}
extern "C" __global__ void __launch_bounds__(1024) spills(float* x, int n) {
  float a[120];
  for (int i = 0; i < 120; ++i) a[i] = x[i * n];
  for (int j = 0; j < n; ++j) for (int i = 0; i < 120; ++i) a[i] = a[i] * a[(i + 7) % 120] + x[j];
  for (int i = 0; i < 120; ++i) x[i * n + n] = a[i];
}
"""
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_120")


@functools.cache
def made(arch: str) -> nvrtc.Compiled:
    return nvrtc.to_cubin(SOURCE, arch)


def compiled(arch: str) -> bytes:
    return made(arch).data


def cuobjdump() -> str:
    import nvidia

    found = [p for folder in nvidia.__path__ for p in Path(folder).glob("cu*/bin/cuobjdump")]
    if not found:
        pytest.skip("the nvidia-cuda-cuobjdump wheel is not installed")
    return str(found[0])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_number_equals_cuobjdump(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("nvidia")
    path = tmp_path / "kernel.cubin"
    path.write_bytes(compiled(arch))
    command = [cuobjdump(), "--dump-resource-usage", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+) CONSTANT\[0\]:(\d+)", text)
    facts = cubin.read(compiled(arch))
    assert facts.cc == int(re.sub(r"\D", "", arch))
    assert set(facts.kernels) == {"staged", "local_array", "calls", "map_by_value", "spills"}
    seen = {name: tuple(map(int, numbers)) for name, *numbers in lines if name in facts.kernels}
    assert set(seen) == set(facts.kernels)
    for name, (registers, stack, shared, _, _) in seen.items():
        kernel = facts.kernels[name]
        declared = kernel.static_shared_bytes + (cubin.RESERVED_SHARED if facts.cc >= 90 and shared else 0)
        assert (kernel.registers, kernel.stack_bytes, declared) == (registers, stack, shared), name


def test_barriers_may_stand_in_the_flags_of_the_code() -> None:
    """CUDA 12's compilers write them there alone."""
    code = bytearray(compiled("sm_80"))
    elf = cubin.Elf(bytes(code))
    at = next(i for i, s in enumerate(elf.sections) if s.name == ".text.calls")
    (table,) = struct.unpack_from("<Q", code, 40)
    (flags,) = struct.unpack_from("<Q", code, table + 64 * at + 8)
    assert cubin.read(bytes(code)).kernels["calls"].barriers == 0
    struct.pack_into("<Q", code, table + 64 * at + 8, flags | 5 << 20)
    assert cubin.read(bytes(code)).kernels["calls"].barriers == 5


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_declared_facts_are_read_back(arch: str) -> None:
    kernels = cubin.read(compiled(arch)).kernels
    assert (kernels["staged"].max_threads, kernels["local_array"].max_threads) == (128, 0)
    assert kernels["staged"].static_shared_bytes == 256
    assert kernels["staged"].barriers == 4  # barriers 0..3: __syncthreads and bar.sync 3
    # 160 bytes, unless the compiler keeps the array in registers (NVRTC 12.9 does for sm_120)
    assert kernels["local_array"].stack_bytes == cubin.read_log(made(arch).log)["local_array"].stack_bytes in (0, 160)
    assert kernels["spills"].stack_bytes > 0 and kernels["spills"].registers <= 64
    assert [(p.offset, p.size) for p in kernels["local_array"].params] == [(0, 8), (8, 4), (16, 8)]
    assert [(p.offset, p.size) for p in kernels["map_by_value"].params] == [(0, 128), (128, 8)]
    assert kernels["map_by_value"].param_bytes == 136
    assert not any(k.setmaxnreg for k in kernels.values())


def test_registers_do_not_come_from_the_section_header_on_newer_chips() -> None:
    """``sh_info >> 24`` of ``.text`` was the register count up to 8.9 and is 0 from 9.0 on."""
    assert cubin.read(compiled("sm_90a")).kernels["spills"].registers == 64


def test_setmaxnreg_is_seen() -> None:
    source = r"""extern "C" __global__ void __launch_bounds__(384, 1) k(float* x, int n) {
      if (threadIdx.x < 128) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
      else asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
      x[n] = 1; }"""
    assert cubin.read(nvrtc.to_cubin(source, "sm_90a").data).kernels["k"].setmaxnreg


def test_garbage_is_refused() -> None:
    for data in (b"", b"\x7fELF", b"x" * 4096, compiled("sm_80")[:63]):
        with pytest.raises(CorruptData, match="cubin"):
            cubin.read(data)


def test_another_machine_is_refused() -> None:
    data = bytearray(compiled("sm_80"))
    struct.pack_into("<H", data, 18, 62)
    with pytest.raises(CorruptData, match="62"):
        cubin.read(bytes(data))


def test_damage_anywhere_is_refused_or_harmless() -> None:
    """Cut short, or with words overwritten: a clean error or facts, never another exception."""
    whole, dice, refused = compiled("sm_90a"), random.Random(5), 0
    for trial in range(600):
        data = bytearray(whole[: dice.randrange(len(whole))] if trial % 3 == 0 else whole)
        for _ in range(dice.randrange(1, 8)):
            tail = len(data) - 1 - dice.randrange(max(1, min(len(data), 3000)))
            at = dice.choice((dice.randrange(max(1, len(data) - 8)), dice.randrange(64), tail))
            word = dice.choice((0, 0xFFFFFFFF, dice.getrandbits(32), len(data)))
            data[max(at, 0) : max(at, 0) + 4] = struct.pack("<I", word)
        try:
            cubin.read(bytes(data))
        except CorruptData:
            refused += 1
    assert refused > 200
