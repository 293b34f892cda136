"""Imports point one way, what is private stays private, and files keep to one subject."""

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxrnn", "experiments", "benchmarks")

# Each may import those before it.
ORDER = (
    "jaxrnn.checks",
    "jaxrnn.signature",
    "jaxrnn.ops",
    "jaxrnn.cells",
    "jaxrnn.layers",
    "jaxrnn.models",
    "jaxrnn.interop",
    "jaxrnn.export",
    "jaxrnn.data",
    "jaxrnn.training",
    "jaxrnn.forecasting",
    "jaxrnn",
    "experiments",
    "benchmarks",
)

# No public function compiles or times one kernel.
KERNELS = ("jaxrnn.ops.pallas", "jaxrnn.ops.step", "jaxrnn.ops.linear")
MAY_NAME_KERNELS = ("benchmarks.aot", "benchmarks.accelerator")


class Import(NamedTuple):
    importer: str
    module: str
    name: str | None  # of what is taken from the module; None for the module itself
    when_called: bool  # inside a function, not when the importer is loaded


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(module: str) -> Iterator[Import]:
    found = [(node, False) for node in ast.parse(MODULES[module].read_text()).body]
    while found:
        node, called = found.pop()
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, None, called) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES and _is_module(node.module, alias.name):
                    yield Import(module, whole, None, called)
                else:
                    yield Import(module, node.module, alias.name, called)
        elif not isinstance(node, ast.expr):
            in_function = called or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            found += [(child, in_function) for child in ast.iter_child_nodes(node)]


def _is_module(package: str, name: str) -> bool:
    """False where a package has a function with the name of one of its modules, as ``jaxrnn.training.fit``."""
    return isinstance(getattr(importlib.import_module(package), name, ModuleType("")), ModuleType)


@functools.cache
def imports() -> list[Import]:
    """All of them, of the modules of this project."""
    return [one for module in MODULES for one in _imports(module) if one.module in MODULES]


def _room(module: str) -> str:
    """The part of ORDER that a module belongs to."""
    return max((room for room in ORDER if module == room or module.startswith(room + ".")), key=len)


def test_there_is_something_to_check():
    assert len(MODULES) > 80 and len(imports()) > 300
    assert Import("jaxrnn.layers.rnn", "jaxrnn.ops.step", "Carry", False) in imports()


def test_packages_import_only_what_lies_below_them():
    against = [i for i in imports() if ORDER.index(_room(i.module)) > ORDER.index(_room(i.importer))]
    assert not against


def test_no_module_imports_itself_by_way_of_others():
    needs = {
        module: {i.module for i in imports() if i.importer == module and not i.when_called} for module in MODULES
    }
    # A package is loaded before its modules, but it is its package that names them.
    needs = {module: {n for n in of if not module.startswith(n + ".")} for module, of in needs.items()}
    while free := [module for module, of in needs.items() if not of & needs.keys()]:
        for module in free:
            del needs[module]
    assert not needs, "these import each other in a circle, or need one that does"


def test_what_is_imported_from_outside_a_library_is_in_its_public_face():
    """Experiments and benchmarks use jaxrnn as a user does: they take what an ``__all__`` names."""
    wrong = []
    for i in imports():
        if not i.module.startswith("jaxrnn.") or i.importer.startswith("jaxrnn"):
            continue
        if i.importer in MAY_NAME_KERNELS and i.module.startswith(KERNELS):
            continue
        package, _, name = (i.module, "", i.name) if i.name else i.module.rpartition(".")
        is_face = MODULES[package].name == "__init__.py" or package.count(".") == 1
        if not is_face or name not in getattr(importlib.import_module(package), "__all__", ()):
            wrong.append(i)
    assert not wrong


def test_no_private_name_is_imported():
    private = [i for i in imports() if i.name is not None and i.name.startswith("_") and i.name != "__version__"]
    assert not private


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.startswith("jaxrnn") and MODULES[m].name == "__init__.py"]
)
def test_public_names_exist(module):
    loaded = importlib.import_module(module)
    assert all(hasattr(loaded, name) for name in getattr(loaded, "__all__", ()))


def test_files_are_short():
    files = [path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*")]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if path.suffix in (".py", ".h", ".cpp") and (lines := len(path.read_text().splitlines())) > 350
    }
    assert not long
