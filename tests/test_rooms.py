"""The picture of the rooms, held to the code: who may import whom, and what is public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import audiotag

PACKAGE = Path(audiotag.__file__).parent

# From the ground up. A module imports only from rows above its own; inside L3 and L5 also from its own row.
ROWS: dict[str, tuple[str, ...]] = {
    "L0": (
        "errors", "machine", "config", "published", "labels", "options", "thresholds", "results", "writers", "web_page",
        "inputs",
    ),
    "L1": ("audio", "windows", "frontend", "scores", "events"),
    "L2": ("model_folder", "network", "engines"),
    "L3": (
        "hub", "pipeline", "tuning", "tagger", "journal", "run", "merge", "reformat", "convert", "equalise", "export",
        "report", "model_card", "selftest", "benchmark",
    ),
    "L4": ("training",),
    "L5": ("cli", "__main__"),
}
ROW_OF = {room: row for row, rooms in ROWS.items() for room in rooms}

# Third-party packages by the only rooms that may import them; numpy is everywhere from L1 up.
OWNERS: dict[str, tuple[str, ...]] = {
    "soundfile": ("audio",),
    "av": ("audio", "training"),
    "soxr": ("audio", "training"),
    "onnxruntime": ("engines", "export", "cli"),
    "typer": ("cli",),
    "rich": ("writers", "cli"),
    "huggingface_hub": ("hub", "cli"),
}
LIGHT_ROW = "L0"  # only the standard library; what else a room of it needs is imported where it is used


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Room, dotted name and syntax tree of every module of the package, the lazy front door aside."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST, *, at_import_time: bool) -> Iterator[str]:
    """Dotted names that a module imports; with `at_import_time` those that run when it is imported itself."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (at_import_time and runs_later_or_never(node)):
            yield from imports(node, at_import_time=at_import_time)


def runs_later_or_never(node: ast.AST) -> bool:
    """A body that an import of the module does not run: a function's, or one that only type checkers see."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def rooms_imported(tree: ast.AST, *, at_import_time: bool = False) -> set[str]:
    """The package's rooms that a module imports."""
    names = [name.split(".") for name in imports(tree, at_import_time=at_import_time)]
    rooms = {parts[1] for parts in names if parts[0] == "audiotag" and len(parts) > 1}
    return rooms & set(ROW_OF)


MODULES = list(modules())


def each_module(of: Callable[[str], bool] = lambda room: True) -> pytest.MarkDecorator:
    """A test for each module of the rooms that `of` picks."""
    picked = [module for module in MODULES if of(module[0])]
    return pytest.mark.parametrize(("room", "name", "tree"), picked, ids=[name for _, name, _ in picked])


def test_every_room_stands_in_the_table() -> None:
    assert {room for room, _, _ in MODULES} <= set(ROW_OF)


def test_the_readme_shows_the_same_rows() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| layer | modules |")[2].partition("\n\n")[0]
    shown = [set(re.findall(r"`(\w+)`", row)) for row in table.splitlines()[2:]]
    here = {room for room, _, _ in MODULES} - {"__main__"}
    assert shown == [here & set(rooms) for rooms in ROWS.values()]


@each_module()
def test_a_room_imports_only_rooms_below_or_beside_it(room: str, name: str, tree: ast.Module) -> None:
    rows = list(ROWS)
    too_high = {
        other for other in rooms_imported(tree) - {room} if rows.index(ROW_OF[other]) > rows.index(ROW_OF[room])
    }
    assert not too_high, f"{name} imports {sorted(too_high)} from above"


def test_no_two_rooms_import_each_other() -> None:
    above: dict[str, set[str]] = {room: set() for room in ROW_OF}
    for room, _, tree in MODULES:
        above[room] |= rooms_imported(tree, at_import_time=True) - {room}
    done: set[str] = set()
    while ready := {room for room, needs in above.items() if room not in done and needs <= done}:
        done |= ready
    assert set(above) == done, f"a circle among {sorted(set(above) - done)}"


@each_module()
def test_a_foreign_package_has_one_owner(room: str, name: str, tree: ast.Module) -> None:
    for package in {imported.split(".")[0] for imported in imports(tree, at_import_time=False)}:
        assert room in OWNERS.get(package, (room,)), f"{name} imports {package}, which {OWNERS[package]} owns"


@each_module(lambda room: ROW_OF.get(room) == LIGHT_ROW)
def test_the_lowest_row_imports_only_the_standard_library(room: str, name: str, tree: ast.Module) -> None:
    packages = {imported.split(".")[0] for imported in imports(tree, at_import_time=True)}
    assert packages <= sys.stdlib_module_names | {"audiotag"}


@each_module(lambda room: room == "cli")
def test_the_command_line_imports_heavy_rooms_only_inside_commands(room: str, name: str, tree: ast.Module) -> None:
    heavy = {other for other in rooms_imported(tree, at_import_time=True) if ROW_OF[other] in ("L1", "L3", "L4")}
    light = {"journal", "hub"}  # the standard library at import time
    assert heavy <= light, f"{name} imports {sorted(heavy)} at its top"


def test_the_public_names_are_the_nine_of_the_readme() -> None:
    expected = ["load", "Tagger", "ClipResult", "Tag", "Event", "Failure", "Waveform", "read_audio", "AudiotagError"]
    assert audiotag.__all__ == expected
    for name in expected:
        assert getattr(audiotag, name).__module__.startswith("audiotag.")


def test_a_public_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tager'"):
        _ = audiotag.Tager


def type_errors(code: str, folder: Path) -> list[str]:
    """What a type checker says of code that uses the library."""
    (folder / "code.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", folder / "code.py"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    return [line.rpartition("error: ")[2] for line in (done.stdout + done.stderr).splitlines()]


def test_the_status_of_a_result_tells_a_type_checker_what_it_is(tmp_path: Path) -> None:
    code = """
import audiotag
for result in audiotag.load().tag_many(["a.wav"]):
    print(result.error if result.status == "failed" else result.duration)
"""
    assert type_errors(code, tmp_path) == []


def test_a_type_checker_takes_no_name_that_is_not_public(tmp_path: Path) -> None:
    expected = ['Module has no attribute "Tager"; maybe "Tagger"?  [attr-defined]']
    assert type_errors("import audiotag\naudiotag.Tager\n", tmp_path) == expected
