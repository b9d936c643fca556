"""What every template keeps, new ones included: declaration and source agree, defaults fit, knobs matter."""

from __future__ import annotations

import ast
import dataclasses
import functools
import random
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import KNOWN, Device, by_name
from gpu_tune.space.knob import Config, Constraint, Knob, Value
from gpu_tune.templates.base import FOLDER, Template, render
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.lib.knobs import KINDS, SHARED
from gpu_tune.templates.registry import registry
from gpu_tune.workload import Conv2d, Matmul, Workload
from tests.helpers.as_declared import agrees
from tests.helpers.template_names import variables

TEMPLATES = sorted(registry())
ARCHITECTURES = ("nvidia-t4", "nvidia-a100", "nvidia-rtx-3090", "nvidia-rtx-4090", "nvidia-h200", "nvidia-rtx-5090")
BF16: dict[str, Any] = dict(dtype="bfloat16", epilogue="bias+gelu")
DGRAD, WGRAD = dict[str, Any](direction="dgrad"), dict[str, Any](direction="wgrad")
WORKLOADS: tuple[Workload, ...] = (
    Matmul(1024, 1024, 1024, layout="nt", **BF16),
    Matmul(1024, 1024, 1024, layout="nn", dtype="float32", math=("tf32", "tf32x3")),
    Matmul(4096, 4096, 4096, dtype="float16", layout="nt", beta="1", math=("fp16_accumulate",)),
    Matmul(2048, 2048, 2048, dtype="float32", layout="tn"),
    Matmul(512, 4096, 4096, dtype="int8", out_dtype="float16", layout="nt", scales="row_col"),
    Matmul(512, 512, 2048, dtype="float8_e4m3", layout="nt", scales="block128"),
    Matmul(512, 512, 512, dtype="float8_e5m2", layout="tt", scales="tensor", math=("fast_accumulate",)),
    Matmul(1000, 999, 1001, dtype="float16", layout="nn", alpha="any", beta="any"),
    Matmul(2, 4096, 4096, dtype="bfloat16", layout="nt", deterministic=False),
    Matmul(4096, 16, 8192, dtype="float16", layout="nn", deterministic=False),
    Matmul(256, 256, 256, dtype="int8", out_dtype="int8", layout="nt", scales="row_col"),
    Matmul(64, 64, 64, batch=70000, dtype="float16", layout="nt"),
    Matmul(1, 1, 1, dtype="int8"),
    Matmul(256, 256, 4096, dtype="int8", layout="nt"),
    Matmul(1024, 1024, 2048, dtype="float32", layout="nt", math=("tf32",)),
    Matmul(8192, 6144, 4096, dtype="float8_e4m3", layout="nt"),
    Matmul(240, 8192, 4096, dtype="bfloat16", layout="nt"),
    Conv2d(
        1,
        64,
        56,
        56,
        64,
        3,
        3,
        padding=1,
        layout="nhwc",
        dtype="float16",
        epilogue="scale+bias+relu",
        math=("winograd",),
    ),
    Conv2d(16, 256, 14, 14, 256, 3, 3, padding=1, layout="nchw", dtype="float32", math=("winograd",)),
    Conv2d(16, 128, 28, 28, 128, 3, 3, padding=1, layout="nhwc", dtype="float32", math=("tf32", "tf32x3", "winograd")),
    Conv2d(2, 4096, 14, 14, 512, 3, 3, padding=1, layout="nhwc", dtype="float16", math=("winograd",)),
    Conv2d(1, 3, 224, 224, 64, 7, 7, stride=2, padding=3, layout="nhwc", dtype="float16"),
    Conv2d(8, 512, 7, 7, 512, 1, 1, layout="nhwc", dtype="int8"),
    Conv2d(8, 64, 56, 56, 256, 3, 3, padding=1, layout="nhwc", dtype="float16", math=("fp16_accumulate",)),
    Conv2d(2, 64, 16, 16, 64, 3, 3, padding=1, layout="nhwc", dtype="int8", out_dtype="int8", scales="tensor"),
    Conv2d(8, 64, 56, 56, 128, 1, 1, stride=2, layout="nhwc", dtype="bfloat16"),
    Conv2d(1, 256, 28, 28, 256, 3, 3, padding=1, groups=256, layout="nhwc", dtype="float16"),
    Conv2d(
        1, 32, 200, 200, 32, 5, 5, padding=2, groups=32, layout="nhwc", dtype="int8", scales="tensor", out_dtype="int8"
    ),
    Conv2d(4, 256, 28, 28, 256, 3, 3, padding=1, groups=256, layout="nchw", dtype="float32", epilogue="relu"),
    Conv2d(
        1,
        256,
        28,
        28,
        256,
        3,
        3,
        stride=(2, 1),
        padding=(0, 1, 2, 1),
        dilation=2,
        groups=8,
        layout="nhwc",
        dtype="bfloat16",
    ),
    Conv2d(1, 4, 30, 60, 4, 25, 2, padding=(12, 12, 30000, 30000), dilation=(1, 60000), layout="nchw", dtype="float32"),
    Conv2d(1, 1, 1, 1, 1, 1, 1, layout="nchw", dtype="float8_e4m3"),
    Conv2d(1, 512, 7, 7, 512, 3, 3, padding=1, layout="nhwc", dtype="float16"),
    Conv2d(4, 512, 14, 14, 512, 3, 3, padding=1, layout="nhwc", dtype="float8_e4m3", scales="row_col"),
    Conv2d(16, 128, 28, 28, 256, 3, 3, stride=2, padding=1, dtype="float16", epilogue="bias+relu", direction="dgrad"),
    Conv2d(2, 24, 30, 17, 20, 5, 3, stride=(3, 4), dilation=(3, 2), layout="nchw", dtype="float32", direction="dgrad"),
    Conv2d(2, 64, 15, 15, 64, 3, 3, padding=1, groups=2, dtype="int8", out_dtype="int8", scales="tensor", **DGRAD),
    Conv2d(1, 6, 9, 1, 2, 1, 1, stride=(4, 7), groups=2, layout="nchw", dtype="float8_e5m2", **DGRAD),
    Conv2d(16, 128, 28, 28, 128, 3, 3, padding=1, dtype="bfloat16", out_dtype="float32", beta="1", **WGRAD),
    Conv2d(2, 3, 64, 65, 48, 7, 7, stride=2, padding=3, layout="nchw", dtype="float32", beta="any", **WGRAD),
    Conv2d(4, 64, 28, 28, 64, 3, 3, padding=1, groups=64, dtype="float16", **WGRAD),
    Conv2d(2, 32, 9, 9, 32, 3, 3, padding=1, dtype="int8", **WGRAD),
    Conv2d(1, 1, 1, 1, 1, 1, 1, layout="nchw", dtype="int8", **WGRAD),
    Conv2d(8, 256, 28, 28, 256, 3, 3, padding=1, dtype="float16", math=("fp16_accumulate",), **DGRAD),
    Conv2d(
        2, 100, 20, 20, 256, 5, 5, padding=2, dtype="float32", math=("tf32", "tf32x3"), deterministic=False, **DGRAD
    ),
    Conv2d(2, 12, 14, 14, 128, 1, 3, dilation=(1, 2), padding=(0, 0, 2, 1), groups=2, dtype="bfloat16", **DGRAD),
    Conv2d(8, 64, 64, 64, 256, 3, 3, padding=1, stride=2, dtype="float16", math=("fp16_accumulate",), **WGRAD),
    Conv2d(8, 36, 20, 20, 512, 3, 3, dtype="float32", math=("tf32", "tf32x3"), deterministic=False, **WGRAD),
    Conv2d(4, 512, 28, 28, 512, 1, 1, stride=2, dtype="bfloat16", **WGRAD),
    Conv2d(2, 64, 56, 56, 64, 3, 3, stride=2, padding=1, groups=64, dtype="float16", epilogue="drelu(out)", **DGRAD),
    Conv2d(4, 256, 28, 28, 256, 5, 3, padding=2, groups=256, layout="nchw", dtype="float32", **DGRAD),
    Conv2d(2, 64, 40, 200, 64, 3, 3, padding=1, groups=64, dtype="int8", scales="tensor", out_dtype="int8", **DGRAD),
    Conv2d(8, 512, 28, 28, 512, 3, 3, padding=1, groups=512, layout="nchw", dtype="bfloat16", beta="1", **WGRAD),
    Conv2d(8, 128, 56, 130, 128, 3, 3, padding=1, groups=128, dtype="int8", **WGRAD),
    Conv2d(4, 128, 17, 19, 256, 3, 3, padding=1, groups=2, dtype="bfloat16", epilogue="bias+drelu(out)", **DGRAD),
    Conv2d(1, 64, 14, 14, 512, 3, 3, padding=1, dtype="float16", out_dtype="float32", **DGRAD),
    Conv2d(2, 96, 30, 31, 128, 3, 2, stride=(1, 2), groups=2, dtype="bfloat16", beta="any", **WGRAD),
)
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")


@functools.cache
def served(name: str) -> list[tuple[Workload, Device]]:
    """Pairs of the lists above that the template takes, each workload on the first device that it takes it on."""
    template, found = registry()[name], []
    for number, workload in enumerate(WORKLOADS):
        for place in range(len(ARCHITECTURES)):
            device = by_name(ARCHITECTURES[(number + place) % len(ARCHITECTURES)])
            if template.supported(workload, device) is True:
                found.append((workload, device))
                break
    return found


@functools.cache
def sampled(name: str, number: int, count: int) -> list[Config]:
    workload, device = served(name)[number]
    return BoundTemplate(registry()[name], workload, device).space().sample(count, np.random.default_rng(7))


@functools.cache
def compiled(source: str, arch: str) -> tuple[cubin.Cubin, dict[str, cubin.PtxasReport]]:
    made = nvrtc.to_cubin(source, arch)
    return cubin.read(made.data), dict(cubin.read_log(made.log))


@pytest.mark.parametrize("name", TEMPLATES)
def test_serves_something(name: str) -> None:
    assert served(name), "no workload of this file is for this template: add one"


@pytest.mark.parametrize("name", TEMPLATES)
def test_source_reads_exactly_its_knobs(name: str) -> None:
    template = registry()[name]
    free = variables(template)
    assert free <= {*template.knob, "workload", "device", "launch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_constraints_read_only_the_knobs_they_declare(name: str) -> None:
    template = registry()[name]
    workload, device = served(name)[0]
    for config in sampled(name, 0, 20):
        for rule in template.constraints:
            assert set(rule.knobs) <= set(template.knob), rule.name
            assert rule.holds({k: config[k] for k in rule.knobs}, workload, device), rule.name
            assert rule.message, rule.name


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_defaults_are_valid_on_every_known_chip(name: str) -> None:
    template = registry()[name]
    for workload in WORKLOADS:
        for device in KNOWN.values():
            if template.supported(workload, device) is True:
                config = template.default(workload, device)
                assert not template.violations(config, workload, device), (workload.key, device.name)
                made = template.plan(config, workload, device)
                estimate = template.resources(config, workload, device)
                assert made.check().workspace_bytes == estimate.workspace_bytes


@pytest.mark.parametrize("name", TEMPLATES)
def test_seeds_are_configs_of_the_space(name: str) -> None:
    template = registry()[name]
    valid = 0
    for workload, device in served(name):
        for config in template.seeds(workload, device):
            assert set(config) == set(template.knob), (workload.key, config)
            assert all(config[k.name] in k.values for k in template.knobs), (workload.key, config)
            valid += not template.violations(config, workload, device)
    assert valid or not any(template.seeds(w, d) for w, d in served(name))


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("name", TEMPLATES)
def test_defaults_compile_without_spills_and_as_declared(name: str) -> None:
    template = registry()[name]
    for workload, device in served(name):
        config = template.default(workload, device)
        facts, reports = compiled(render(template, config, workload, device), device.arch)
        assert not any(r.spill_bytes for r in reports.values()), (workload.key, device.name, reports)
        agrees(template, config, workload, device, facts)


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("name", TEMPLATES)
def test_random_configs_compile_as_declared(name: str) -> None:
    """Besides those of test_driver_takes_templates.py."""
    template = registry()[name]
    pairs = served(name)
    for number in random.Random(name).sample(range(len(pairs)), min(2, len(pairs))):
        workload, device = pairs[number]
        config = sampled(name, number, 20)[number % 20]
        agrees(template, config, workload, device, compiled(render(template, config, workload, device), device.arch)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering_is_deterministic_and_clean(name: str) -> None:
    template = registry()[name]
    for number, (workload, device) in enumerate(served(name)[:4]):
        config = sampled(name, number, 20)[3]
        source = render(template, config, workload, device)
        assert source == render(template, Config(dict(reversed(list(config.items())))), workload, device)
        assert "#include" not in source and "{{" not in source and "{%" not in source
        assert all(line == line.rstrip() for line in source.split("\n")) and "\n\n\n" not in source


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_knob_value_changes_the_code_or_the_launch_somewhere(name: str) -> None:
    template = registry()[name]
    missing = {(k.name, v) for k in template.knobs if len(k.values) > 1 for v in k.values if honoured(template, k, v)}
    for number, (workload, device) in enumerate(served(name)[:3]):
        for config in sampled(name, number, 20):
            for knob in template.knobs:
                if any((knob.name, v) in missing for v in knob.values):
                    missing -= differing(template, config, knob, workload, device, missing)
    rng = random.Random(1)
    for knob, value in [(k, v) for k in template.knobs for v in k.values if (k.name, v) in missing]:
        for draw in (descend, from_space):
            for workload, device in served(name):
                if (knob.name, value) in missing and (drawn := draw(template, workload, device, knob, value, rng)):
                    missing -= differing(template, drawn, knob, workload, device, missing)
    left = ", ".join(sorted(f"{n}={v}" for n, v in missing))
    assert not left, f"never matters for any workload of this file: {left}; narrow the knobs or add a workload"


def honoured(template: Template, knob: Knob, value: Value) -> bool:
    """Whether the family can take this value of a knob that it shares with others (``only`` of lib/knobs.py)."""
    own = [c for c in template.constraints if c.name in (f"{knob.name}_supported", f"product_{knob.name}_supported")]
    workload, device = served(template.name)[0]
    return all(c.holds({knob.name: value, "tile": 2}, workload, device) for c in own)


def from_space(
    template: Template, workload: Workload, device: Device, knob: Knob, value: Value, rng: random.Random
) -> Config | None:
    """A valid config with this value from the space itself, which searches longer; None when there is none."""
    knobs = tuple(dataclasses.replace(k, values=(value,)) if k is knob else k for k in template.knobs)
    narrow = BoundTemplate(dataclasses.replace(template, knobs=knobs), workload, device).space()
    return next(iter(narrow.sample(1, np.random.default_rng(rng.randrange(2**31)))), None)


def descend(
    template: Template, workload: Workload, device: Device, knob: Knob, value: Value, rng: random.Random
) -> Config | None:
    """A random valid config with this value, by depth-first search; None when a thousand steps find none."""
    knobs = [dataclasses.replace(knob, values=(value,)), *(k for k in template.knobs if k is not knob)]
    ready: list[list[Constraint]] = []
    for depth in range(len(knobs)):
        known = {k.name for k in knobs[: depth + 1]}
        ready.append([r for r in template.constraints if knobs[depth].name in r.knobs and known.issuperset(r.knobs)])
    chosen: dict[str, Value] = {}
    budget = 1000

    def fill(depth: int) -> bool:
        nonlocal budget
        if depth == len(knobs):
            return True
        for option in rng.sample(knobs[depth].values, len(knobs[depth].values)):
            chosen[knobs[depth].name] = option
            budget -= 1
            if budget < 0:
                return False
            if all(r.holds({n: chosen[n] for n in r.knobs}, workload, device) for r in ready[depth]) and fill(
                depth + 1
            ):
                return True
        return False

    return Config(chosen) if fill(0) else None


def differing(
    template: Template, config: Config, knob: Knob, workload: Workload, device: Device, wanted: set[tuple[str, Value]]
) -> set[tuple[str, Value]]:
    """The values of ``knob``, the config's and a wanted other one, that make a difference, all else equal.

    A value that no other may replace here, all else equal, counts: the rest of the config hangs on it.
    """
    own, exchangeable = (knob.name, config[knob.name]), False
    for value in sorted(knob.values, key=lambda v: (knob.name, v) not in wanted):
        other = config.replace(**{knob.name: value})
        if value == own[1] or template.violations(other, workload, device):
            continue
        exchangeable = True
        if {own, (knob.name, value)} & wanted:
            first, second = (
                (render(template, c, workload, device), template.plan(c, workload, device)) for c in (config, other)
            )
            if first != second:
                return {own, (knob.name, value)}
    return set() if exchangeable else {own}


@pytest.mark.parametrize("name", TEMPLATES)
def test_knobs_with_one_meaning_have_one_name_and_the_same_values(name: str) -> None:
    knobs = registry()[name].knob
    for knob in set(SHARED) & set(knobs):
        wide = knob == "split_k" and registry()[name].directions == ("wgrad",)  # its depth is all pixels
        values = knobs[knob].values[: len(SHARED[knob].values)] if wide else knobs[knob].values
        assert values == SHARED[knob].values, f"{knob}: other values than in the other families"
    others = {"group_m", "raster", "persistent", "split_c", "splits", "epilogue", "swizzle", "num_stages", "store"}
    assert not others & set(knobs), "has another name in the other families"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_constraint_is_named_after_its_subject_and_its_kind(name: str) -> None:
    kinds = {*KINDS, "divide", "fit"}
    names = [c.name for c in registry()[name].constraints]
    assert [n for n in names if n.rpartition("_")[2] not in kinds or not n.rpartition("_")[0]] == []
    assert len(set(names)) == len(names)


def test_declarations_are_written_in_one_order() -> None:
    order = [field.name for field in dataclasses.fields(Template)]
    order.remove("tile")
    order.insert(order.index("constraints"), "tile")
    order.remove("features")
    order.insert(order.index("numerics"), "features")
    for path in [*FOLDER.glob("*.py"), FOLDER / "lib" / "winograd" / "family.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Template":
                names = [str(keyword.arg) for keyword in node.keywords]
                assert names == sorted(names, key=order.index), path.name


def test_functions_of_a_family_are_written_in_one_order_and_are_called_what_they_are() -> None:
    order = ["supports", "derive", "resources", "plan", "default", "seeds", "numerics"]
    for path in FOLDER.glob("*_*.py"):
        tree = ast.parse(path.read_text())
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        parts = [name for name in defined if name in order]
        assert parts == sorted(parts, key=order.index), path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Template":
                given = {k.arg: k.value.id for k in node.keywords if isinstance(k.value, ast.Name) and k.arg in order}
                assert all(made in (part, f"_{part}") for part, made in given.items()), (path.name, given)


def test_the_library_is_written_in_one_order() -> None:
    names = [name for part in ("layout", "storage", "pipeline", "launch", "derived") for name in (part.title(), part)]
    orders = {
        "derived.py": [*names, "derive"],
        "launch.py": ["workspace_bytes", "resources", "plan"],
        "seeds.py": ["complete", "default", "seeds"],
    }
    for path in (FOLDER / "lib").rglob("*.py"):
        order, found = orders.get(path.name, []), []
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.append(node.name)
            elif isinstance(node, ast.Assign):
                found += [target.id for target in node.targets if isinstance(target, ast.Name)]
        mine = [name for name in found if name in order]
        assert mine == sorted(mine, key=order.index), path.relative_to(FOLDER)
