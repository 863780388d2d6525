"""The house rules that the code itself can show: who imports whom, no cycles, one short noun per module."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {"storage": {"storage"}, "trainer": {"storage", "trainer"}, "app": {"storage", "trainer", "app"}}
# Storage knows neither models nor HTTP, the trainer no HTTP: their libraries would show it.
FOREIGN = {
    "storage": {"torch", "transformers", "peft", "trl", "fastapi", "starlette", "gradio", "uvicorn", "typer"},
    "trainer": {"fastapi", "starlette", "gradio", "uvicorn", "typer"},
    "app": set(),
}
LONGEST_MODULE = 350


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))}
TESTS = {module_name(path): path for path in sorted((ROOT / "tests").rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, as absolute dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write it in full"
            assert node.module is not None
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in MODULES else node.module)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    folder = name.split(".")[0]
    packages = {imported.split(".")[0] for imported in imports(MODULES[name])}
    assert packages & {*MAY_IMPORT, "tests"} <= MAY_IMPORT[folder]
    assert not packages & FOREIGN[folder]


def test_no_import_cycles() -> None:
    graph = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES | TESTS)
def test_module_is_short_and_says_what_it_is(name: str) -> None:
    source = (MODULES | TESTS)[name].read_text()
    assert len(source.splitlines()) <= LONGEST_MODULE
    assert not source or ast.get_docstring(ast.parse(source))
