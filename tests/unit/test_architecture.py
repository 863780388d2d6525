"""The rules of the tree: who imports whom, no cycles, packages that explain themselves."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from storage.db.tables import Table

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {"storage": {"storage"}, "trainer": {"storage", "trainer"}, "app": {"storage", "trainer", "app"}}
# Storage knows neither models nor HTTP, the trainer no HTTP: their libraries would show it.
FOREIGN = {
    "storage": {"torch", "transformers", "peft", "trl", "fastapi", "starlette", "gradio", "uvicorn", "typer"},
    "trainer": {"fastapi", "starlette", "gradio", "uvicorn", "typer"},
    "app": set(),
}
# With more than this a package holds two subjects, and its list of files is no longer read at a glance.
MOST_MODULES = 14


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))}
TESTS = {module_name(path): path for path in sorted((ROOT / "tests").rglob("*.py"))}
# Alembic loads its migrations by their file names; nothing imports them.
PACKAGES = {
    name: path.parent
    for name, path in MODULES.items()
    if path.name == "__init__.py" and "migrations" not in path.parts
}


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


def package_of(name: str) -> str:
    """The package of a module; a module directly below storage, trainer or app stands for itself."""
    if name in PACKAGES or name.count(".") == 1:
        return name
    return name.rpartition(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    folder = name.split(".")[0]
    packages = {imported.split(".")[0] for imported in imports(MODULES[name])}
    assert packages & {*MAY_IMPORT, "tests"} <= MAY_IMPORT[folder]
    assert not packages & FOREIGN[folder]


def in_a_circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_cycles() -> None:
    graph = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    assert not in_a_circle(graph), "these modules import each other in a circle"


def test_packages_import_each_other_one_way() -> None:
    assert not in_a_circle(package_graph()), "these packages import each other in a circle"


def test_a_circle_of_packages_would_be_found() -> None:
    assert set(in_a_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def package_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        package = package_of(name)
        found = {package_of(imported) for imported in imports(path) & MODULES.keys()}
        graph.setdefault(package, set()).update(found - {package})
    return graph


def test_a_vote_goes_the_way_that_the_docs_say() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| \d \| `([a-z_/0-9]+)` \|[^|\n]*\| ([^|\n]*) ?\|$", page, flags=re.MULTILINE)
    stations = [station.replace("/", ".") for station, _ in rows]
    assert 5 <= len(stations) == len(set(stations)) <= 9, "at most nine stations, none visited twice"
    assert (stations[0].split(".")[0], stations[-1]) == ("app", "app.serving")
    graph = package_graph()

    def inside(station: str) -> set[str]:
        return {package for package in graph if f"{package}.".startswith(f"{station}.")}

    def reached(station: str) -> set[str]:
        return set().union(*(graph[package] for package in inside(station)))

    for (_, link), one, other in zip(rows, stations, stations[1:], strict=False):
        if link.strip() == "import":
            linked = reached(one) & inside(other) or reached(other) & inside(one)
        else:
            table = Table.metadata.tables[link.split("`")[1]]
            linked = reached(one) & reached(other) & {"storage.registry", "storage.db"} and table.columns
        assert linked, f"docs/architecture.md: {one} and {other} are not linked by: {link}"
    for station, _ in rows:
        assert f'["{station}"]' in page, f"the picture lacks {station}"


@pytest.mark.parametrize("name", PACKAGES)
def test_package_says_what_it_does_and_where_to_begin(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGES[name] / "__init__.py").read_text())) or ""
    assert "Begin with `" in docstring or name.count(".") == 0
    for named in [word for word in docstring.split("`") if word.endswith(".py")]:
        assert (PACKAGES[name] / named).exists() or (ROOT / named).exists(), f"{name} names {named}"


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_small(name: str) -> None:
    modules = [path for path in PACKAGES[name].glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("name", MODULES | TESTS)
def test_module_says_what_it_is(name: str) -> None:
    source = (MODULES | TESTS)[name].read_text()
    assert not source or ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("name", TESTS)
def test_no_test_module_is_imported(name: str) -> None:
    imported = {module.rpartition(".")[2] for module in imports(TESTS[name]) if module.startswith("tests.")}
    assert not {module for module in imported if module.startswith("test_")}, "move it to tests/support"


@pytest.mark.parametrize("name", [name for name in TESTS if name.rpartition(".")[2].startswith("test_")])
def test_no_test_runs_a_loop_in_its_own_thread(name: str) -> None:
    calls = [node.func for node in ast.walk(ast.parse(TESTS[name].read_text())) if isinstance(node, ast.Call)]
    assert "asyncio.run" not in map(ast.unparse, calls), "Playwright has one there: in_a_loop runs it apart"
