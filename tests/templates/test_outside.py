"""Kernel families from outside: a newcomer's package and folder, used by everything; broken ones cost nobody else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gpu_tune as gt
from gpu_tune.cuda import driver
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import TemplateError, Unsupported
from gpu_tune.templates import registry as registry_module
from gpu_tune.templates.bound import hardware
from gpu_tune.templates.outside import VARIABLE, load
from gpu_tune.templates.registry import bind, broken, registry
from tests.helpers.command_line import run

NEWCOMER = Path(__file__).parents[1] / "data" / "newcomer"
WORKLOAD = gt.Matmul(20, 18, 16, dtype="float32", epilogue="bias+relu")
SHAPE = ["matmul", "--m", "20", "--n", "18", "--k", "16", "--dtype", "float32", "--epilogue", "bias+relu"]
H200 = by_name("nvidia-h200")


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Families are looked for again, before and after."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(driver, "library", lambda: None)
    registry_module._families.cache_clear()
    yield monkeypatch
    registry_module._families.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the newcomer's pair and its helper."""
    return Path(shutil.copytree(NEWCOMER, tmp_path / "families", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def package(tmp_path: Path, folder: Path, afresh: pytest.MonkeyPatch) -> Path:
    """An installed package with the family, as pip leaves it."""
    site = tmp_path / "site"
    module = Path(shutil.copytree(folder, site / "newcomer_kernels"))
    (module / "__init__.py").write_text("")
    (site / "newcomer_kernels-1.0.dist-info").mkdir()
    (site / "newcomer_kernels-1.0.dist-info" / "METADATA").write_text("Name: newcomer-kernels\nVersion: 1.0\n")
    (site / "newcomer_kernels-1.0.dist-info" / "entry_points.txt").write_text(
        "[gpu_tune.templates]\nnewcomer = newcomer_kernels.newcomer\nmissing = newcomer_kernels.nothing\n"
    )
    afresh.syspath_prepend(site)
    return module


def test_a_newcomers_package_is_tuned_verified_and_exported(
    package: Path, home: Path, tmp_path: Path, compile_once: None
) -> None:
    template = registry()["newcomer"]
    assert template.folder == package and "matmul_simt" in registry()
    assert "no module newcomer_kernels.nothing" in str(broken()["missing"])
    assert [b.name for b in bind(WORKLOAD, H200)][-1] == "newcomer"
    space = next(b for b in bind(WORKLOAD, H200) if b.name == "newcomer").space()
    default = space.default()
    assert default is not None and space.tile(default) == (2, 64) and len(hardware(space.bound, [default])[1]) > 20

    kernel = gt.tune(WORKLOAD, device=H200, trials=4, templates={"newcomer": template}, jobs=1)
    assert kernel.winner.template == "newcomer" and kernel.winner.template_hash == template.hash()
    assert any(c["by"] == "emulator" and c["ok"] for c in kernel.verdict["checks"]) and " newcomer(" in kernel.source

    checked = json.loads(run("verify", "newcomer", "--variants", "6", "--workers", "0", "--json").stdout)
    assert checked["ok"] and checked["variants"] == 6
    run("export", "--to", str(tmp_path / "out"), "--predicted", "--cpp")
    (header,) = (tmp_path / "out").rglob("kernel.hpp")
    assert '"newcomer"' in header.read_text()


def test_a_folder_of_pairs_named_on_the_command_line(folder: Path, afresh: pytest.MonkeyPatch) -> None:
    shown = json.loads(
        run("show", "space", *SHAPE, "--device", "nvidia-h200", "--templates", str(folder), "--json").stdout
    )
    assert {"newcomer", "matmul_simt"} <= {s["template"] for s in shown["spaces"]}
    assert registry()["newcomer"].folder == folder
    row = next(r for r in json.loads(run("doctor", "--json").stdout)["findings"] if r["name"] == "templates")
    assert row["ok"] and "newcomer" in row["found"]
    assert "is not a folder" in run("show", "space", *SHAPE, "--templates", str(folder / "no"), code=2).output


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return write


PY, SOURCE = "newcomer.py", "newcomer.cu.j2"
BROKEN = {
    "syntax": (edited(PY, "TEMPLATE = Template(", "TEMPLATE = = Template("), r"newcomer\.py:\d+: invalid syntax"),
    "import": (edited("limits.py", "GRID_Y, INT =", "GRID_Y, INT = 1 / 0,"), r"limits\.py:3: ZeroDivisionError"),
    "no template": (edited(PY, "TEMPLATE = ", "TEMPLATE = 1 or "), r"newcomer\.py:\d+: TEMPLATE is 1"),
    "knob": (edited(PY, '"grid", ("height",)', '"grid", ("hight",)'), r"newcomer\.py:\d+: .*reads hight"),
    "name": (edited(PY, 'name="newcomer"', 'name="matmul_simt"'), r"newcomer\.py:\d+: .*'matmul_simt' is not"),
    "jinja": (edited(SOURCE, "{{ lanes }})", "{% lanes }})"), r"newcomer\.cu\.j2:9: "),
    "undefined": (edited(SOURCE, "#pragma unroll {{ ahead }}", "{{ behind }}"), r"newcomer\.cu\.j2:14: behind is"),
    "part": (
        edited(SOURCE, "parts/common/numeric", "parts/numerics"),
        r"newcomer\.cu\.j2:1: there is no parts/numerics",
    ),
    "half": (lambda folder: (folder / SOURCE).unlink(), r"newcomer\.py:\d+: there is no newcomer\.cu\.j2"),
    "other half": (lambda folder: (folder / PY).unlink(), r"newcomer\.cu\.j2: has no newcomer\.py"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_family_is_one_error_and_costs_nobody_else(
    name: str, folder: Path, afresh: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    how, message = BROKEN[name]
    how(folder)
    afresh.setenv(VARIABLE, str(folder))
    assert "newcomer" not in registry() and "matmul_simt" in registry()
    with pytest.raises(TemplateError, match=message):
        raise broken()["newcomer"]
    assert len(caplog.records) == 1 and bind(WORKLOAD, H200)
    assert str(folder) in run("verify", "newcomer", "--workers", "0", code=2).output


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('w.layout != "nn"', 'w.colour != "nn"', r"newcomer\.py:\d+: AttributeError"),
        ('c["lanes"] * c["height"],', 'c["lines"] * c["height"],', r"newcomer\.py:\d+: KeyError"),
    ],
)
def test_one_that_fails_for_a_workload_is_left_out_there(
    old: str, new: str, place: str, folder: Path, afresh: pytest.MonkeyPatch
) -> None:
    edited("newcomer.py", old, new)(folder)
    family = {"newcomer": load(folder, "newcomer")}
    with pytest.raises(Unsupported, match=f"newcomer is broken .*{place}"):
        bind(WORKLOAD, H200, family)
    assert "newcomer" not in [b.name for b in bind(WORKLOAD, H200, {**registry(), **family})]


def test_a_second_family_of_a_name_is_refused(folder: Path, tmp_path: Path, afresh: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    afresh.setenv(VARIABLE, f"{folder}:{other}")
    assert registry()["newcomer"].folder == folder and "a family newcomer already" in str(broken()["newcomer"])
