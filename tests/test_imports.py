"""The direction of dependencies: which rooms know which, and no circle of modules."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("femur_jax", "configs", "benchmarks")

# Rooms, and the packages that they must not import.
STRANGERS = {
    **dict.fromkeys(
        ("phantom", "data", "ingest", "inspection", "export", "reader_study"),
        ("models", "training", "diffusion", "gan", "classifier"),
    ),
    "models": ("data", "training"),
    "evaluation": ("training", "data.loader", "classifier", "diffusion", "gan"),
}
ABOVE = {"study": {"study"}, "stages": {"stages", "study", "gpu_plan", "commands", "main"}}
"""Rooms that only some rooms import: themselves, those above them and the command line."""


@cache
def modules() -> dict[str, Path]:
    """Files of all modules by their dotted names."""
    paths = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
        if "peers" not in path.parts  # programs of another environment
    }


@cache
def imports() -> dict[str, set[str]]:
    """Modules that each module imports anywhere, also inside functions."""
    graph: dict[str, set[str]] = {}
    for name, path in modules().items():
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} has a relative import"
                base = node.module or ""
                full = {f"{base}.{alias.name}" for alias in node.names}
                imported.update(module if module in modules() else base for module in full)
        graph[name] = imported & modules().keys()
    return graph


def room(module: str) -> str:
    """The part of a module's name after femur_jax; the package's name outside of it."""
    first, *rest = module.split(".")
    return rest[0] if first == "femur_jax" and rest else first


def edges() -> list[tuple[str, str]]:
    return [(name, other) for name, others in imports().items() for other in others]


def test_every_module_is_read():
    assert {
        "femur_jax.main",
        "configs.study",
        "femur_jax.evaluation.generators",
    } <= imports().keys()
    assert "femur_jax.evaluation.neighbours" in imports()["femur_jax.evaluation.distances"]
    assert len(edges()) > 300


@pytest.mark.parametrize("name", STRANGERS)
def test_a_room_knows_only_what_lies_below_it(name):
    strangers = tuple(f"femur_jax.{stranger}" for stranger in STRANGERS[name])
    known = [
        f"{module} imports {other}"
        for module, other in edges()
        if room(module) == name
        for stranger in strangers
        if other == stranger or other.startswith(stranger + ".")
    ]
    assert not known


@pytest.mark.parametrize("name", ABOVE)
def test_a_room_at_the_top_is_imported_only_from_above(name):
    users = {
        f"{module} imports {other}"
        for module, other in edges()
        if other.startswith(f"femur_jax.{name}")
        and module.startswith("femur_jax")
        and room(module) not in ABOVE[name]
    }
    assert not users


def test_modules_import_in_no_circle():
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(f"A circle of imports: {' <- '.join(error.args[1])}")


def test_rooms_import_in_no_circle():
    graph: dict[str, set[str]] = {}
    for module, other in edges():
        if room(module) != room(other):
            graph.setdefault(room(module), set()).add(room(other))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"A circle of rooms: {' <- '.join(error.args[1])}")
