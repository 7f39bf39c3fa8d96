"""The file name is the registration: `methods/lora.py` is "lora", `methods/prompt_tuning.py` is "prompt-tuning".

Names are listed without importing anything; a file is imported when it is asked for. Packages outside
register a module through the entry-point group of the same name (`graftlm.methods`).
"""

import ast
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from graftlm.core.errors import unknown


@cache
def modules(package: str) -> dict[str, str]:
    """Public names in a package and the module that each one lives in."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    files = [file.stem for folder in folders for file in Path(folder).glob("*.py") if not file.stem.startswith("_")]
    found = {stem.replace("_", "-"): f"{package}.{stem}" for stem in sorted(files)}
    return found | {point.name: point.value for point in entry_points(group=package)}


def load(package: str, kind: str, name: str) -> ModuleType:
    """The module of one name; an unknown name is an error that names the nearest."""
    known = modules(package)
    if name not in known:
        raise unknown(kind, name, known)
    return import_module(known[name])


def name_of(module: str) -> str:
    """The public name of a module that was registered by its file."""
    return module.rsplit(".", 1)[-1].replace("_", "-")


def facts(package: str) -> dict[str, dict[str, object]]:
    """Each name's docstring (key "doc") and upper-case literal constants, read without importing the file."""
    table: dict[str, dict[str, object]] = {}
    for name, module in modules(package).items():
        file = _file(package, module)
        if file is None:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        row: dict[str, object] = {"doc": ast.get_docstring(tree) or ""}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
                try:
                    row[node.targets[0].id] = ast.literal_eval(node.value)
                except ValueError:
                    continue
        table[name] = row
    return table


def _file(package: str, module: str) -> Path | None:
    """A module's file. One of ours is found by its folder: `find_spec` would import the package around it."""
    parent, _, stem = module.rpartition(".")
    spec = find_spec(package if parent == package else module)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name(f"{stem}.py") if parent == package else Path(spec.origin)
