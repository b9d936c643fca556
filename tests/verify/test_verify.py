"""Verify: every registered template holds up on the emulator; a wrong one is caught, with a command that shows it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.cuda import device, nvrtc
from gpu_tune.errors import GpuTuneError, InvalidInput
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan
from gpu_tune.space.knob import Config, Constraint, Knob
from gpu_tune.templates.base import ResourceEstimate, Template, render
from gpu_tune.templates.registry import registry
from gpu_tune.verify import sweep
from gpu_tune.verify.branches import all_branches, reachable_branches, taken_branches
from gpu_tune.verify.cases import DEVICES, Variant, supported_cells
from gpu_tune.verify.draw import Drawing, knob_pairs, random_config, variants
from gpu_tune.workload import Matmul

pytestmark = [
    pytest.mark.skipif(not emulator.available(), reason="no C++ compiler: the emulator cannot be built"),
    pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed"),
]
H200 = device.by_name("nvidia-h200")
GRADIENTS = {"simt": 15, "mma": 10, "depthwise": 12, "wgmma": 6}
VARIANTS = {f"conv2d_{direction}_{kind}": n for direction in ("dgrad", "wgrad") for kind, n in GRADIENTS.items()}
VARIANTS |= {"conv2d_igemm_wgmma": 26, "conv2d_winograd_simt": 20}
"""Of a family, if not 32: these take longest, or share most of their code with others.

The longer sweep: ``gpu-tune verify TEMPLATE --variants 2000``.
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry()))
def test_random_variants_are_right(name: str) -> None:
    count = VARIANTS.get(name, 32)
    report = sweep.sweep(name, variants=count, seed=1, workers=0, assemble_every=25)
    print(report.text())
    assert report.ok, report.text()
    assert report.variants == count and report.runs >= 3 * count
    branches = all_branches(registry()[name])
    assert len(report.coverage.branches & branches) > len(branches) / 3
    cells = {(c.dtype, c.layout) for _, c in report.coverage.cells}
    assert cells == {(c.dtype, c.layout) for d in DEVICES for c in supported_cells(registry()[name], device.by_name(d))}


RIGHT = """\
{% set tile = rows * 32 %}
extern "C" __global__ void __launch_bounds__({{ tile }}) rows_kernel(const float* a, const float* b, float* out) {
  __shared__ float s[{{ tile }}];
  const int i = blockIdx.x * {{ rows }} + threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int j = 0; j < {{ workload.n }}; ++j) {
    float sum = 0;
    if (i < {{ workload.m }})
      for (int k = lane; k < {{ workload.k }}; k += 32)
        sum += a[i * {{ workload.lda }} + k] * b[k * {{ workload.ldb }} + j];
    s[threadIdx.x] = sum;
    __syncthreads();
{% if fold == "tree" %}
    for (int o = 16; o; o /= 2) {
      if (lane < o) s[threadIdx.x] += s[threadIdx.x + o];
      __syncthreads();
    }
    if (lane == 0 && i < {{ workload.m }}) out[i * {{ workload.ldc }} + j] = s[threadIdx.x];
{% else %}
    if (lane == 0 && i < {{ workload.m }}) {
      float total = 0;
      for (int q = 0; q < 32; ++q) total += s[threadIdx.x + q];
      out[i * {{ workload.ldc }} + j] = total;
    }
{% endif %}
    __syncthreads();
  }
}
"""
BUGS = {
    "race": ("    __syncthreads();\n  }", "  }"),
    "bounds": ("lane == 0 && i < {{ workload.m }}", "lane == 0"),
    "wrong": ("k < {{ workload.k }}", "k < {{ workload.k - 1 }}"),
    "compile": ("float sum = 0;", "float sum = 0"),
}


def supports(workload: object, _: object) -> bool | str:
    assert isinstance(workload, Matmul)
    plain = Matmul(
        workload.m,
        workload.n,
        workload.k,
        workload.batch,
        "float32",
        "float32",
        "nn",
        workload.lda,
        workload.ldb,
        workload.ldc,
        workload.alignment,
    )
    small = max(workload.m, workload.n, workload.k) <= 128
    return (small and workload == plain and workload.batch == 1) or "is for small plain float32 problems alone"


def resources(config: Config, workload: object, _: object) -> ResourceEstimate:
    threads = 32 * int(config["rows"])
    return ResourceEstimate(threads, 4 * threads, 1)


def plan(config: Config, workload: object, _: object) -> LaunchPlan:
    assert isinstance(workload, Matmul)
    rows = int(config["rows"])
    args = tuple(BufferArg(n) for n in ("a", "b", "out"))
    return LaunchPlan((KernelStep("rows_kernel", (-(-workload.m // rows), 1, 1), (32 * rows, 1, 1), args),))


def family(folder: Path, source: str = RIGHT) -> Template:
    (folder / "row_sums.cu.j2").write_text(source)
    return Template(
        "row_sums",
        "matmul",
        "a warp per row",
        (Knob("rows", (1, 2, 4, 8), "rows of a block"), Knob("fold", ("tree", "serial"), "sum", False)),
        (
            Constraint(
                "serial_small",
                ("rows", "fold"),
                lambda c, w, d: c["fold"] == "tree" or c["rows"] < 8,
                "serial blocks are small",
            ),
        ),
        supports,
        lambda c, w, d: {},
        resources,
        plan,
        lambda w, d: Config(rows=2, fold="tree"),
        folder=folder,
    )


def test_a_right_template_is_all_right_and_fully_covered(tmp_path: Path) -> None:
    report = sweep.sweep(family(tmp_path), variants=20, seed=3)
    assert report.ok, report.text()
    assert (report.variants, report.runs, report.assembled) == (20, 60, 2)
    text = report.text()
    assert "20 variants" in text and "all right" in text
    assert "template branches: 2 of 2 in row_sums.cu.j2" in text
    assert "pairs of knob values: 7 of 7; 1 more that no config has" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "word"), [("race", "race"), ("bounds", "bounds"), ("wrong", "wrong result"), ("compile", "compile error")]
)
def test_a_wrong_template_is_caught_once_per_class(tmp_path: Path, bug: str, word: str) -> None:
    source = RIGHT.replace(*BUGS[bug])
    assert source != RIGHT
    report = sweep.sweep(family(tmp_path, source), variants=8, seed=5)
    found = [c for c in report.classes.values() if word in c.label]
    assert found, report.text()
    assert len(report.classes) < 5 and not report.ok
    assert max(c.count for c in found) > (bug in ("race", "wrong", "compile"))
    line = next(text for text in report.text().splitlines() if word in text)
    assert re.search(r"\d+ variants?; \S", line)


def test_a_wrong_declaration_is_caught(tmp_path: Path) -> None:
    template = replace(family(tmp_path), resources=lambda c, w, d: ResourceEstimate(32, 17, 300, 0))
    report = sweep.sweep(template, variants=1, seed=0, assemble_every=1)
    assert {"shared bytes", "accumulators"} <= set(report.classes), report.text()


@pytest.mark.slow
@pytest.mark.parametrize("spare", [0, 64])
def test_dynamic_shared_memory_that_nothing_touches_is_caught(tmp_path: Path, spare: int) -> None:
    source = RIGHT.replace("__shared__ float s[{{ tile }}]", "extern __shared__ float s[]")

    def asking(config: Config, workload: object, device: object) -> LaunchPlan:
        (step,) = plan(config, workload, device).kernels
        return LaunchPlan((replace(step, shared_bytes=128 * int(config["rows"]) + spare),))

    def any_size(workload: object, device: object) -> bool | str:
        assert isinstance(workload, Matmul)
        return supports(replace(workload, m=8, n=8, k=8, lda=0, ldb=0, ldc=0), device)

    template = replace(
        family(tmp_path, source),
        plan=asking,
        supports=any_size,
        resources=lambda c, w, d: ResourceEstimate(32 * int(c["rows"]), 128 * int(c["rows"]) + spare, 1),
    )
    report = sweep.sweep(template, variants=2, seed=0, assemble_every=1)
    assert set(report.classes) == ({"shared bytes touched"} if spare else set()), report.text()


def test_the_command_shows_exactly_that_variant_again() -> None:
    name = sorted(registry())[0]
    variant = next(variants(registry()[name], seed=4))
    match = re.fullmatch(rf"gpu-tune verify {name} --case '(.*)'", variant.command)
    assert match
    again = Variant.from_json(name, json.loads(match[1]))
    assert again == variant
    assert render(registry()[name], again.config, again.workload, again.device)
    report = sweep.check_case(name, match[1])
    assert report.variants == 1 and report.assembled == 1


def test_a_process_that_does_not_start_is_no_hanging_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_tune.measure.worker.START_SECONDS", 0.0)
    report = sweep.sweep(sorted(registry())[0], variants=1, workers=1, assemble_every=0)
    assert set(report.classes) == {"checker died"}, report.text()


def test_variants_depend_on_the_seed_alone(tmp_path: Path) -> None:
    template = family(tmp_path)

    def first(seed: int) -> list[Variant]:
        return list(itertools.islice(variants(template, seed), 6))

    assert first(1) == first(1) != first(2)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry()))
def test_variants_are_valid_and_reach_many_cells(name: str) -> None:
    template, seen = registry()[name], set()
    for variant in itertools.islice(variants(template, seed=0), 12):
        assert template.supported(variant.workload, variant.device) is True
        assert template.violations(variant.config, variant.workload, variant.device) == []
        assert Variant.from_json(name, json.loads(json.dumps(variant.to_json()))) == variant
        seen.add((variant.workload.dtype, variant.workload.layout, variant.workload.epilogue))
    assert len(seen) > 4 or len(supported_cells(template, variant.device)) < 12


def test_random_configs_reach_every_value(tmp_path: Path) -> None:
    template, rng = family(tmp_path), np.random.default_rng(0)
    found = {random_config(template, Matmul(8, 8, 8, dtype="float32"), H200, rng) for _ in range(100)}
    assert len(found) == 7 and None not in found


def test_a_space_without_valid_configs_is_named(tmp_path: Path) -> None:
    never = Constraint("never", ("rows",), lambda c, w, d: False, "never")
    with pytest.raises(InvalidInput, match=r"row_sums.*no valid config"):
        sweep.sweep(replace(family(tmp_path), constraints=(never,)), variants=1)


def test_branches_of_other_operations_are_not_asked_for(tmp_path: Path) -> None:
    source = (
        RIGHT
        + """
{% import "parts/common/raster.cuh.j2" as raster %}
{% macro unused() %}{% if rows %}{% endif %}{% endmacro %}
{% if workload.op == "conv2d" %}{% for i in range(3) %}{% endfor %}
{% elif workload.op == "matmul" %}{% else %}{% endif %}
"""
    )
    template = family(tmp_path, source)
    own = {b for b in reachable_branches(template) if b[0] == "row_sums.cu.j2"}
    assert {kind for _, _, kind in own} == {"if", "elif", "else"} and len(own) == 3
    assert len(all_branches(template)) > len(reachable_branches(template)) + 4


def test_sweeps_are_directed_at_what_is_not_covered() -> None:
    template = registry()["matmul_simt"]
    drawing = Drawing(template, seed=0, devices=("nvidia-a100",))
    drawn = list(itertools.islice(drawing, 60))
    cells = {(d.variant.workload.dtype, d.variant.workload.layout, d.variant.workload.epilogue) for d in drawn}
    assert len(cells) > 52  # nine of ten are new
    assert len(drawing.unseen_residues) < 12
    blind = set[object]()
    for number in range(60):
        v = drawn[number].variant
        config = random_config(template, v.workload, v.device, np.random.default_rng(number))
        blind.update(knob_pairs(config) if config else ())
    assert len(drawing.pairs.seen) > len(blind)


def test_branches_are_those_that_rendering_takes(tmp_path: Path) -> None:
    template = family(tmp_path)
    w = Matmul(8, 8, 8, dtype="float32")
    tree = taken_branches(template, Config(rows=2, fold="tree"), w, H200)
    serial = taken_branches(template, Config(rows=2, fold="serial"), w, H200)
    assert {kind for _, _, kind in tree} == {"if"} and {kind for _, _, kind in serial} == {"else"}
    assert tree | serial == all_branches(template)


def test_unknown_templates_and_cases_are_refused() -> None:
    with pytest.raises(InvalidInput, match="matmul_simt"):
        sweep.sweep("matmul_magic")
    for case in ("{", "[]", "{}", '{"workload": {"op": "matmul"}, "device": "nvidia-h200", "config": {}, "seed": 0}'):
        with pytest.raises(GpuTuneError):
            sweep.check_case("matmul_simt", case)


def test_processes_find_the_same_as_one(tmp_path: Path) -> None:
    alone, pooled = (sweep.sweep("matmul_simt", variants=2, seed=2, workers=n, assemble_every=0) for n in (0, 2))
    assert alone.ok == pooled.ok and alone.coverage.pairs == pooled.coverage.pairs and pooled.variants == 2


def test_a_variant_that_hangs_is_a_failure_and_the_sweep_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "TIME_LIMIT", 0.001)
    report = sweep.sweep("matmul_simt", variants=2, seed=2, workers=1, assemble_every=0)
    assert [(c.label, c.count) for c in report.classes.values()] == [("hangs", 2)] and report.runs == 0
    assert "gpu-tune verify matmul_simt --case" in report.text()


def test_the_command_sweeps() -> None:
    command = [sys.executable, "-m", "gpu_tune", "verify", "matmul_simt", "--variants", "1", "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 variants" in done.stdout and "covered" in done.stdout, done.stderr
    bad = subprocess.run([*command[:4], "matmul_magic"], capture_output=True, text=True)
    assert bad.returncode == 2 and "matmul_magic" in bad.stderr
