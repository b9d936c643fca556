"""The command lines and API calls whose outputs are golden.

A line ``cat PATTERN`` reads files that earlier lines wrote. ``{tmp}`` is a scratch folder with the files of ``FILES``,
``{data}`` the folder of recorded spaces.
"""

from __future__ import annotations

_MM = "matmul --m 64 --n 64 --k 64 --dtype float32"
_CONV = "conv2d --n 1 --c 4 --h 3 --w 3 --k 4 --r 1 --s 1"

HELP = [
    "--help", "-h", "", "--version",
    *(f"{c} --help" for c in ("tune", "bench", "show", "records", "replay", "verify", "export", "doctor", "gc")),
    "tune matmul --help", "tune conv2d --help",
    *(f"show {what}{op} --help" for what in ("space", "search", "kernel") for op in ("", " matmul", " conv2d")),
]  # fmt: skip

PLAIN = [
    "show space matmul --m 1024 --n 1024 --k 1024 --dtype float16 --layout nt --device nvidia-h200",
    "show space matmul --m 100 --n 52 --k 36 --dtype int8 --layout tn --epilogue bias+relu",
    "show space matmul --m 64 --n 64 --k 64 --dtype float32 --device a100",
    "show space matmul --m 99 --n 52 --k 36 --dtype int8 --epilogue bias+relu --out-dtype float32 --device nvidia-t4",
    "show space matmul --m 256 --n 256 --k 256 --dtype float8_e4m3 --layout nt --scales block128 --json",
    "show space conv2d --n 2 --c 64 --h 28 --w 28 --k 64 --r 3 --s 3 --padding 1 --layout nhwc --dtype float16",
    "show space conv2d --n 1 --c 32 --h 16 --w 16 --k 32 --r 3 --s 3 --groups 32 --dtype float32 --device rtx-5090",
    "show space conv2d --n 1 --c 32 --h 16 --w 16 --k 32 --r 3 --s 3 --padding 1 --math winograd --layout nhwc --json",
    f"show kernel {_MM}",
    f"show kernel {_CONV} --device a100",
    f"show search {_MM}",
    f"show search {_MM} --json",
    "bench --list", "bench --list --json", "bench squares", "bench squares --json --device nvidia-a100",
    "bench squares --select 512 --dtype float32",
    "records", "records --json", "records --csv -", "records list",
    "replay {data}/synthetic-a.json.gz --trials 40 --seeds 2",
    "replay {data}/synthetic-b.json.gz --trials 30 --seeds 2 --seed 5 --json",
    "verify matmul_simt --variants 2 --seed 1",
    "verify conv2d_depthwise --variants 2 --seed 3 --json --workers 0",
    "gc", "gc --json", "export --to {tmp}/out", "export --to {tmp}/out --predicted",
]  # fmt: skip

BAD = [
    f"tune {_MM} --dtype float65", f"tune {_MM} --layout xy", "tune matmul --m -3 --n 2 --k 3",
    "tune matmul --m x --n 2 --k 3", "tune matmul --m 9:1 --n 2 --k 3", "tune matmul --m 1:99999999 --n 2 --k 3",
    "tune matmul --m 1:1000 --n 1:1000 --k 3", "tune matmul --m 1 --n 2", f"tune {_MM} --device h2000",
    f"tune {_MM} --epilogue bias+swish", f"tune {_MM} --epilogue clamp(1)", f"tune {_MM} --epilogue relu+relu+bias+",
    f"tune {_MM} --math winograd", f"tune {_MM} --math fast", f"tune {_MM} --scales tensor", f"tune {_MM} --alpha 2",
    f"tune {_MM} --out-dtype int4", f"tune {_MM} --lda 3", f"tune {_MM} --alignment 3", f"tune {_MM} --batch 0",
    f"tune {_MM} --trials 0", f"tune {_MM} --trials many", f"tune {_MM} --seconds -1", f"tune {_MM} --seed -1",
    f"tune {_MM} --seed x", f"tune {_MM} --effort great", f"tune {_MM} --target fast", f"tune {_MM} --target 0.00035",
    f"tune {_MM} --target 1.03", f"tune {_MM} --jobs 0", f"tune {_MM} --executor nonsense", "tune gemm --m 1",
    f"tune {_MM} --store {{tmp}}/junk.json/store", f"tune {_CONV} --stride 1xx2", f"tune {_CONV} --padding 1x2x3",
    f"tune {_CONV} --groups 3", f"tune {_CONV} --direction dgrad", f"tune {_CONV} --weights pretransformed",
    "tune conv2d --n 1 --c 4 --h 3 --w 3 --k 4 --r 5 --s 5", f"tune {_CONV} --nonsense",
    "tune matmul --m 8 --n 8 --k 8 --dtype float8_e4m3 --out-dtype int32",
    "bench squaers", "bench squares --select (", "bench squares --select nothing", "bench squares --dtype float65",
    "bench squares --against cublass", "bench {tmp}/junk.json", "bench squares --seconds 0",
    "bench squares --report {tmp}/none/r.html",
    "records --import {tmp}/none", "records --import {tmp}/junk.jsonl", "records --t4 {tmp}/t4.json",
    "records --csv {tmp}/none/x.csv", "records --source nowhere",
    "replay {tmp}/none.json", "replay {tmp}/junk.json", "replay {tmp}/broken.json", "replay {tmp}/junk.jsonl",
    "replay {data}/synthetic-a.json.gz --seeds x", "replay {data}/synthetic-a.json.gz --seed -1", "replay",
    "verify nothing", "verify {tmp}/none.cu", "verify {tmp}/junk.cu", "verify matmul_simt --case nonsense",
    "verify matmul_simt --case {{}}", "verify matmul_simt --variants 0", "export", "export --to {tmp}/junk.json",
    "gc --keep-days -1", "nonsense", "show", "show kernels", f"show kernel {_MM} --device 7",
    "show space matmul --m 8 --n 8 --k 8 --dtype float64", f"show search {_MM} --report {{tmp}}/none/a.html",
]  # fmt: skip

TUNED = [
    f"tune {_MM} --trials 8 --seed 0 --jobs 1",
    f"tune {_MM} --trials 8 --seed 0 --jobs 1",
    f"tune {_MM} --trials 8 --seed 0 --jobs 1 --json",
    "records", "records --json", "records --csv -",
    f"show kernel {_MM}", f"show kernel {_MM} --plan", f"show kernel {_MM} --json",
    f"show search {_MM}", f"show search {_MM} --json",
    "export --to {tmp}/exported", "export --to {tmp}/exported --predicted --cpp",
    "cat {tmp}/exported/*/*/*/kernel.hpp", "cat {tmp}/exported/*/*/*/launch.json", "cat {tmp}/exported/*/*/*/kernel.cu",
    "records --t4 {tmp}/t4.json", "cat {tmp}/t4.json", "records --kernel-tuner {tmp}/kt.json", "cat {tmp}/kt.json",
    "records --csv {tmp}/all.csv", "records --import {tmp}/all.csv", "replay {tmp}/t4.json --runs 1 --trials 3",
    "replay {tmp}/kt.json --runs 2 --trials 3 --json", "verify {tmp}/exported/predicted/*/*/kernel.cu --variants 1",
    "bench squares --select nothing", "gc --json",
]  # fmt: skip
"""In this order, in one user's folder."""

FILES = {
    "junk.json": "{}",
    "junk.jsonl": "junk\n",
    "broken.json": '{"cache": {"a": ',
    "junk.cu": "__global__ void k() {}\n",
}

_A = "np.ones((4, 4), np.float32)"
API = [
    "gt.nothing", "gt.__all__", "gt.Matmul(m=0, n=1, k=1)", "gt.Matmul(m=1.5, n=1, k=1)", "gt.Matmul(m=True, n=1, k=1)",
    "gt.Matmul(1, 2)", "gt.Matmul(1, 2, 3, dtype='float65')", "gt.Matmul(1, 2, 3, layout='xy')",
    "gt.Matmul(1, 2, 3, epilogue='bias+swish')", "gt.Matmul(1, 2, 3, epilogue='clamp(2,1)')",
    "gt.Matmul(1, 2, 3, math=('winograd',))", "gt.Matmul(1, 2, 3, lda=1)", "gt.Matmul(1, 2, 3, alpha='2')",
    "gt.Matmul(1, 2, 3, nonsense=1)", "gt.Matmul(2**40, 2, 3)", "gt.Matmul(1, 2, 3).key", "gt.Matmul(1, 2, 3)",
    "gt.Matmul(1, 2, 3, dtype='fp16', layout='NT', epilogue='bias + relu')",
    "gt.Conv2d(1, 4, 3, 3, 4, 5, 5)", "gt.Conv2d(1, 4, 3, 3, 4, 1, 1, padding=(1, 2, 3))",
    "gt.Conv2d(1, 4, 3, 3, 4, 1, 1, stride=0)", "gt.Conv2d(1, 4, 3, 3, 4, 1, 1, groups=3)",
    "gt.Conv2d(1, 4, 3, 3, 4, 1, 1, direction='dgrad')", "gt.Conv2d(1, 4, 3, 3, 4, 1, 1, weights='x')",
    "gt.Conv2d(1, 4, 3, 3, 4, 1, 1)", "gt.Conv2d(2, 4, 9, 9, 8, 3, 3, padding=1, dtype='bf16').key",
    "gt.tune('x')", "gt.tune(gt.Matmul(1, 2, 3), trials=0)", "gt.tune(gt.Matmul(1, 2, 3), seed=-1)",
    "gt.tune(gt.Matmul(1, 2, 3), kind='fast')", "gt.tune(gt.Matmul(1, 2, 3), kind='gpu')",
    "gt.tune(gt.Matmul(1, 2, 3), device='h2000')", "gt.tune(gt.Matmul(1, 2, 3), device=7)",
    "gt.tune(gt.Matmul(1, 2, 3), effort='great')", "gt.tune(gt.Matmul(1, 2, 3), target='soon')",
    "gt.tune(gt.Matmul(1, 2, 3), target='2x')", "gt.tune(gt.Matmul(1, 2, 3), executor='x')",
    "gt.tune(gt.Matmul(1, 2, 3), templates={})", "gt.tune(gt.Matmul(1, 2, 3), store=7)",
    "gt.load(None)", "gt.load(gt.Matmul(64, 64, 64), strict=True)", "gt.load(gt.Matmul(64, 64, 64), device='h2000')",
    "gt.load(gt.Conv2d(1, 4, 3, 3, 4, 1, 1), strict=True, device='nvidia-a100')",
    "gt.Tuner()", "gt.Tuner(spaces=[])", "gt.Tuner(gt.Matmul(8, 8, 8), seed='a')",
    "gt.Tuner(gt.Matmul(8, 8, 8), batch=0)", "gt.Tuner(gt.Matmul(8, 8, 8), device='x')",
    "gt.matmul(1, 2)", f"gt.matmul({_A}, np.ones((3, 4), np.float32))", f"gt.matmul({_A}, {_A}, layout='zz')",
    f"gt.matmul({_A}, {_A}, epilogue='bias')", f"gt.matmul({_A}, {_A}, alpha='x')", f"gt.matmul({_A}.T, {_A})",
    f"gt.matmul({_A}[0], {_A})", f"gt.matmul({_A}, {_A}, bias={_A})", f"gt.matmul({_A}, {_A}, out={_A}[:2])",
    f"gt.matmul({_A}, {_A}).tolist()", f"gt.matmul({_A}, {_A}.astype(np.float64))",
    "gt.conv2d(np.ones((1, 4, 4, 2), np.float32), np.ones((2, 3, 3, 3), np.float32), layout='nhwc')",
    "gt.conv2d(np.ones((1, 4), np.float32), np.ones((2, 3, 3, 3), np.float32))",
    "gt.Store('{tmp}/junk.json').prepare()", "list(gt.Store('{tmp}/none').entries())",
    "gt.Store('{tmp}/none').get(gt.Matmul(1, 2, 3), 'chip')", "gt.Records('{tmp}/junk.json').prepare()",
]  # fmt: skip
