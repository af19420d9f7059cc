"""Imports point one way, and what is slow to import is imported where it is used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_spaces", "objectives", "hpo")
HEAVY = {"torch", "ray", "mlflow", "pandas", "optuna", "numpy", "scipy", "sklearn", "matplotlib"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def imports(module: str, inside_functions: bool = True) -> frozenset[str]:
    """What a module imports when it runs (not what only a type checker sees)."""
    tree = ast.parse(modules()[module].read_text())
    names: set[str] = set()
    for node in _running(tree, inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules() else str(node.module))
    return frozenset(names)


def _running(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.Lambda) and not inside_functions:
            continue
        yield child
        yield from _running(child, inside_functions)


def ours(module: str, inside_functions: bool = True) -> set[str]:
    return {name for name in imports(module, inside_functions) if name in modules()}


def reach(module: str) -> set[str]:
    """Everything a module imports, directly or not."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        for name in ours(todo.pop()) - seen:
            seen.add(name)
            todo.append(name)
    return seen


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_search_spaces_know_nothing_of_objectives_and_neither_knows_hpo() -> None:
    for module in modules():
        if within(module, "search_spaces"):
            allowed: tuple[str, ...] = ("search_spaces",)
        elif within(module, "objectives"):
            allowed = ("search_spaces", "objectives")
        else:
            continue
        wrong = {name for name in ours(module) if not within(name, *allowed)}
        assert not wrong, f"{module} imports {wrong}"


def test_no_import_goes_in_a_circle() -> None:
    at_import = {module: ours(module, inside_functions=False) for module in modules()}
    anywhere = {m: ours(m) - {m} for m in modules() if within(m, "hpo")}
    for graph in (at_import, anywhere):
        list(TopologicalSorter(graph).static_order())  # raises CycleError and names the circle


def test_nothing_imports_the_commands() -> None:
    for module in modules():
        if not within(module, "hpo.cli"):
            assert not {n for n in ours(module) if within(n, "hpo.cli")}, module


@pytest.mark.parametrize(
    ("layer", "allowed"),
    [
        (("hpo.pruners",), ("hpo.pruners", "hpo.samplers", "search_spaces")),
        (("hpo.bilevel",), ("hpo.bilevel", "hpo.wording", "objectives", "search_spaces")),
        (
            ("hpo.samplers",),
            ("hpo.samplers", "hpo.bilevel", "hpo.wording", "objectives", "search_spaces"),
        ),
        (
            ("hpo.tracking",),
            ("hpo.tracking", "hpo.spool", "hpo.masking", "hpo.errors", "search_spaces.errors"),
        ),
        (("hpo.spool", "hpo.masking", "hpo.provenance", "hpo.interrupts"), ()),
    ],
)
def test_what_stands_alone_imports_nothing_else(
    layer: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    for module in modules():
        if within(module, *layer):
            wrong = {name for name in reach(module) if not within(name, *allowed)}
            assert not wrong, f"{module} reaches {wrong}"


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("hpo.trial", ("hpo.study", "hpo.engines", "hpo.opening", "hpo.launch", "hpo.tracking")),
        ("hpo.engines._worker", ("hpo.study", "hpo.opening", "hpo.launch", "hpo.tracking")),
        ("hpo.study", ("hpo.engines", "hpo.opening", "hpo.launch", "hpo.tracking", "hpo.console")),
        ("hpo.engines.optuna", ("hpo.opening", "hpo.launch", "hpo.tracking", "hpo.console")),
        ("hpo.result", ("hpo.engines", "hpo.launch", "hpo.tracking", "hpo.console")),
        ("hpo.launch", ("hpo.console", "hpo.api")),
    ],
)
def test_lower_layers_do_not_reach_higher_ones(module: str, never: tuple[str, ...]) -> None:
    assert module in modules()
    wrong = {name for name in reach(module) if within(name, *never)}
    assert not wrong, f"{module} reaches {wrong}"


LIGHT = [
    *("search_spaces", "search_spaces.errors", "search_spaces.plugins", "search_spaces.domains"),
    *("search_spaces.space", "search_spaces.schedule", "search_spaces.presets", "objectives"),
    *("objectives.training.measurement", "hpo", "hpo.errors", "hpo.spec", "hpo.yamlfile"),
    *("hpo.engines._worker", "hpo.engines", "hpo.samplers", "hpo.trial", "hpo.problem"),
]


def test_light_modules_and_the_commands_import_nothing_slow_when_they_are_imported() -> None:
    light = [*LIGHT, *(module for module in modules() if within(module, "hpo.cli"))]
    for module in light:
        seen, todo = {module}, [module]
        while todo:
            name = todo.pop()
            slow = {n.split(".")[0] for n in imports(name, inside_functions=False)} & HEAVY
            assert not slow, f"{module} imports {slow}, by way of {name}"
            fresh = ours(name, inside_functions=False) - seen
            seen |= fresh
            todo += fresh


PROBE = """
import atexit, sys
atexit.register(lambda: print(*sorted({n.split(".")[0] for n in sys.modules}), file=sys.stderr))
from hpo.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["show", "--help"], ["nonsense"]]
)
def test_help_and_version_load_nothing_slow(arguments: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == (2 if arguments == ["nonsense"] else 0)
    loaded = set(ended.stderr.splitlines()[-1].split())
    assert "hpo" in loaded and "click" in loaded
    assert not loaded & {*HEAVY, "pydantic", "rich"}


def test_importing_hpo_loads_nothing_slow_until_a_name_is_used() -> None:
    code = "import hpo, sys; dir(hpo); print(*{n.split('.')[0] for n in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(ended.stdout.split()) & HEAVY


@pytest.mark.parametrize("module", ["hpo.launch", "hpo.study", "hpo.engines._ray.packs"])
def test_drivers_and_workers_import_torch_only_when_something_trains(module: str) -> None:
    """It costs memory, and reads the number of its threads when it is imported."""
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
