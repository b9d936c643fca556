"""The identity of a family: exactly what it imports and includes, by what it says; edits of copies of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_tune.errors import TemplateError
from gpu_tune.templates import base
from gpu_tune.templates.identity import family_hash, modules, sources
from gpu_tune.templates.registry import registry

FAMILIES = sorted(registry())
MMA = {"matmul_mma", "conv2d_igemm_mma", "conv2d_winograd", "conv2d_dgrad_mma", "conv2d_wgrad_mma"}
WGMMA = {"matmul_wgmma", "conv2d_igemm_wgmma", "conv2d_dgrad_wgmma", "conv2d_wgrad_wgmma"}
Changed = Callable[[str, Callable[[str], str]], set[str]]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """The families whose identity an edit of one file changes."""

    def edit(name: str, how: Callable[[str], str]) -> set[str]:
        copy = tmp_path / "templates"
        shutil.copytree(base.FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / name).read_text()
        assert how(text) != text
        (copy / name).write_text(how(text))
        environment = base._environment.__wrapped__(copy)
        found = {f for f in FAMILIES if family_hash(copy, f, copy, environment) != registry()[f].hash()}
        shutil.rmtree(copy)
        return found

    return edit


def test_identities_are_distinct_and_of_twelve_digits() -> None:
    hashes = {registry()[name].hash() for name in FAMILIES}
    assert len(hashes) == len(FAMILIES) and all(len(h) == 12 and int(h, 16) >= 0 for h in hashes)


def test_comments_docstrings_and_layout_change_no_identity(changed: Changed) -> None:
    def spread(text: str) -> str:
        return (
            text.replace("CHUNK = 16\n", 'CHUNK = (\n    16  # bytes\n)\n"""What ldmatrix reads."""\n\n\n') + "# end\n"
        )

    assert changed("lib/mma/tiles.py", spread) == set()
    assert (
        changed(
            "lib/common.py",
            lambda text: text.replace(
                '"""Bytes of shared memory that a kernel may declare statically; more is declared extern."""',
                '"""Other words."""',
            ),
        )
        == set()
    )
    part = "parts/common/epilogue.cuh.j2"
    assert changed(part, lambda text: "{# A remark. #}\n" + text.replace("\n", "  \n", 5)) == set()


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("lib/common.py", set(FAMILIES)),
        ("lib/mma/tiles.py", MMA),
        ("lib/wgmma/launch.py", WGMMA),
        ("matmul_mma.py", MMA),
        ("conv2d_depthwise.py", {"conv2d_depthwise"}),
    ],
)
def test_a_statement_changes_exactly_the_families_that_import_it(
    name: str, families: set[str], changed: Changed
) -> None:
    assert changed(name, lambda text: text + "\nTRUE = 1 == 1\n") == families


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("parts/common/epilogue.cuh.j2", set(FAMILIES)),
        ("parts/mma/mainloop.cuh.j2", MMA),
        ("parts/wgmma/cluster_reduce.cuh.j2", WGMMA),
        ("parts/mma/image_loader.cuh.j2", {"conv2d_igemm_mma", "conv2d_dgrad_mma"}),
        ("matmul_simt.cu.j2", {"matmul_simt", "conv2d_winograd_simt"}),
    ],
)
def test_a_part_changes_exactly_the_families_that_include_it(name: str, families: set[str], changed: Changed) -> None:
    assert changed(name, lambda text: text + "\n// a line of CUDA\n") == families


def test_every_module_and_part_belongs_to_a_family() -> None:
    used: set[str] = set()
    for name in FAMILIES:
        used |= {label.partition("/")[2] for label in modules(base.FOLDER, name, base.FOLDER)}
        used |= set(sources(f"{name}.cu.j2", base._environment(base.FOLDER)))
    files = {str(p.relative_to(base.FOLDER)) for p in base.FOLDER.rglob("*.py")}
    files |= {str(p.relative_to(base.FOLDER)) for p in base.FOLDER.rglob("*.j2")}
    behind_any = {"lib/column_sums.py", "parts/common/column_sums.cuh.j2"}  # known by column_sums.identity()
    assert files - used == {"__init__.py", "bound.py", "outside.py", "registry.py", *behind_any}


def test_a_family_of_another_package_is_made_of_its_own_modules_and_of_the_library(tmp_path: Path) -> None:
    package = tmp_path / "mine" / "families"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "own.py").write_text(
        "from gpu_tune.templates.lib.mma import seeds\nfrom ..shared import X\nimport mine.other, numpy\n"
    )
    (package.parent / "shared.py").write_text("X = 1\n")
    (package.parent / "other.py").write_text("import mine.families.unused_name\n")
    found = modules(package, "own", base.FOLDER)
    own = {label for label in found if not label.startswith("library/")}
    assert own == {"own/families/own.py", "own/families/__init__.py", "own/shared.py", "own/other.py"}
    assert {"library/lib/mma/seeds.py", "library/lib/mma/tiles.py", "library/base.py"} <= set(found)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n{{ 'a }}", r"own\.cu\.j2:2: .*valid Jinja"),
        ("{% include launch.part %}", r"own\.cu\.j2: includes a part by a computed name"),
    ],
)
def test_a_source_whose_parts_cannot_be_known_is_refused(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    (tmp_path / "own.cu.j2").write_text(source)
    environment = base._environment.__wrapped__(tmp_path)
    with pytest.raises(TemplateError, match=message):
        family_hash(tmp_path, "own", base.FOLDER, environment)
