"""The package as others get it: a wheel, installed elsewhere, and the commands of the README."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree (building in place would leave files behind)."""
    import shutil

    source = tmp_path_factory.mktemp("source") / "gpu_tune"
    ignore = shutil.ignore_patterns(
        ".venv", ".git", "__pycache__", "build", "dist", "*.egg-info", ".*_cache", ".hypothesis", "results"
    )
    shutil.copytree(ROOT, source, ignore=ignore)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
    )
    return target


def python(installed, code, cwd, **env):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = [p for p in (ROOT / "gpu_tune").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    missing = [str(p.relative_to(ROOT)) for p in wanted if str(p.relative_to(ROOT)) not in inside]
    assert not missing
    assert {f"gpu_tune/bench_suites/{p.name}" for p in (ROOT / "bench" / "suites").glob("*.json")} <= inside
    shipped = [p for p in (ROOT / "kernels").rglob("*") if p.is_file()]
    assert shipped and {f"gpu_tune/kernels/{p.relative_to(ROOT / 'kernels')}" for p in shipped} <= inside
    assert any(n.endswith("licenses/LICENSE") for n in inside)


def test_an_installed_wheel_finds_its_templates_suites_and_shipped_kernels(installed, tmp_path):
    code = """
import gpu_tune, gpu_tune.paths as f
from gpu_tune.report import suites
from gpu_tune.cuda.device import by_name
from gpu_tune.templates.base import render
from gpu_tune.templates.registry import registry
print(gpu_tune.__file__)
print(f.shipped(), suites.folder(), len(suites.names()) > 10)
w = gpu_tune.Matmul(64, 64, 64, dtype="float32")
t, d = registry()["matmul_simt"], by_name("a100")
print("__global__" in render(t, t.default(w, d), w, d))
"""
    file, folders, rendered = python(installed, code, tmp_path).splitlines()
    assert file == str(installed / "gpu_tune" / "__init__.py")
    assert folders == f"{installed}/gpu_tune/kernels {installed}/gpu_tune/bench_suites True" and rendered == "True"


def test_the_command_line_of_an_installed_wheel_runs(installed, tmp_path):
    code = (
        "from gpu_tune.cli import main; main(['show', 'space', 'matmul', '--m', '8', '--n', '8', '--k', '8', '--json'])"
    )
    assert '"matmul_simt"' in python(installed, code, tmp_path, GPU_TUNE_CACHE_DIR=str(tmp_path / "home"))
    assert (installed / "bin" / "gpu-tune").is_file()


def test_the_import_is_light(installed, tmp_path):
    code = """
import gpu_tune, sys
heavy = ("numpy", "scipy", "lightgbm", "cupy", "jinja2", "rich", "click")
print([m for m in heavy if m in sys.modules])
gpu_tune.Matmul(8, 8, 8)
print([m for m in heavy if m in sys.modules])
print(sorted(set(gpu_tune.__all__) - set(dir(gpu_tune))), all(getattr(gpu_tune, n) for n in gpu_tune.__all__))
"""
    assert python(installed, code, tmp_path).splitlines() == ["[]", "[]", "[] True"]


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split()) - {"gpu_tune.kernels", "gpu_tune.bench_suites"}
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "gpu_tune").rglob("__init__.py")}
    assert listed == found


def test_the_readme_names_the_commands_that_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme and f"\n{target}:" in makefile
    ci = ROOT / ".ci" / "run"
    for target in ("lint", "test"):
        assert f"run {target} " in ci.read_text() and f"\n{target}:" in makefile
    assert os.access(ci, os.X_OK)


def test_linters_are_pinned_and_apart_from_what_tests_need():
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    lint = extras["options.extras_require"]["lint"].split()
    assert {tool.partition("==")[0] for tool in lint} == {"ruff", "mypy"} and all("==" in tool for tool in lint)
    assert not {"ruff", "mypy"} & {
        w.split(">")[0].split("=")[0] for w in extras["options.extras_require"]["test"].split()
    }


def test_the_library_names_nobody_elses_paths_and_writes_no_log_files():
    for path in [*(ROOT / "gpu_tune").rglob("*.py"), *(ROOT / "gpu_tune").rglob("*.j2")]:
        text = path.read_text()
        assert "/work/" not in text and "FileHandler" not in text, path


def test_only_measuring_imports_gpu_packages():
    for path in (ROOT / "gpu_tune").rglob("*.py"):
        name = str(path.relative_to(ROOT / "gpu_tune"))
        tree = ast.parse(path.read_text())
        imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        assert name.startswith(("measure/", "torch/")) or not imported & {"cupy", "torch"}, name
