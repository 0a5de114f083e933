"""The house as its imports show it: which module uses which, and on which floor each wing stands.

Sources are read, not run. An import inside a function counts like one at the top of a file;
one under `if TYPE_CHECKING` does not, since it is there for types alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# From the ground up: a wing uses the floors below its own. Wings of one floor stand side by side
# and do not use each other; what lies loose at a package's root comes on top of all.
FLOORS = {
    "hessspec": (
        ("_base", "_pictures"),
        ("_operators",),
        ("_krylov",),
        ("_trace",),
        ("_spectrum",),
        ("_tracking",),
    ),
    "hessspec_mtl": (
        ("files", "graphs", "weighting"),
        ("featurize",),
        ("datasets",),
        ("network", "baselines"),
        ("training",),
        ("curvature",),
        ("study",),
        ("cluster",),
        ("claims",),
        ("figures",),
        ("report",),
    ),
}

Imports = dict[str, set[str]]


def imports(root: Path = ROOT) -> Imports:
    """The modules of this project under `root`, each with those of them that it imports."""
    files = {
        _module(path.relative_to(root)): path
        for package in FLOORS
        for path in sorted((root / package).rglob("*.py"))
    }
    used = {}
    for module, path in files.items():
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        named = _imported(ast.parse(path.read_text(encoding="utf-8")), package)
        # `from package import name`: the module of that name, or else the package itself.
        found = {name if name in files else name.rpartition(".")[0] for name in named}
        used[module] = {name for name in found if name in files and name != module}
    return used


def package(module: str) -> str:
    """The package in which a module lies."""
    return module.partition(".")[0]


def wing(module: str) -> str:
    """The wing of a module; "" if it lies loose at the root of its package."""
    room = [*module.split("."), ""][1]
    return room if any(room in wings for wings in FLOORS[package(module)]) else ""


def floor(module: str) -> int:
    """The floor on which a module's wing stands, 0 at the ground; the root is above them all."""
    floors = FLOORS[package(module)]
    return next((n for n, wings in enumerate(floors) if wing(module) in wings), len(floors))


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The names imported anywhere below `node` when the code runs, as absolute dotted names."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: 1 - level or None] if level else []
                source = ".".join([*above, *([module] if module else [])])
                yield from (f"{source}.{alias.name}" for alias in names)
            case ast.If(test=test, orelse=otherwise) if "TYPE_CHECKING" in ast.dump(test):
                for branch in otherwise:
                    yield from _imported(ast.Module([branch], []), package)
            case _:
                yield from _imported(child, package)
