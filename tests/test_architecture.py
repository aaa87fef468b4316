"""The house: every import goes down, and nothing heavy or unsafe is let in.

A file imports only from floors below its own, or from its own folder. In a folder of alternatives, such as the
methods, files import its base file alone; in the others they form layers: no cycle of imports. Every import
counts: inside functions, under ``TYPE_CHECKING``, and ``import_module("advae...")`` with the name spelt out.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

FLOORS = {
    **dict.fromkeys(("errors", "files", "registry", "data"), 1),
    **dict.fromkeys(("distributions", "networks", "ratios", "metrics"), 2),
    **dict.fromkeys(("model", "run", "compiling"), 3),
    **dict.fromkeys(("methods",), 4),
    **dict.fromkeys(("training", "evaluation"), 5),
    **dict.fromkeys(("report",), 6),
    **dict.fromkeys(("reproduce", "inference"), 7),
    **dict.fromkeys(("web", "cli"), 8),
}
"""Files and folders of ``advae/``. Its ``__init__`` and ``__main__`` stand above; they import anything."""

SAME_FLOOR = {
    "files": {"errors"},
    "registry": {"errors"},
    "data": {"errors", "files", "registry"},
    "run": {"model"},
}
"""The exceptions on one floor: errors are for everybody, data reads files, a run holds a model."""

BASES = {"__init__", "base"}
"""Files of a folder that its other files may import; the folder's ``__init__`` may import all of them."""

ALTERNATIVES = {"methods"}
"""Folders whose files ignore each other: one may be read, or deleted, without the rest."""

FORBIDDEN = {"torchvision", "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve"}
"""torchvision has no registry build that goes with a CPU torch; a pickle runs code when it is loaded."""

HEAVY = {"torch", "lightning_fabric", "datasets", "sklearn", "matplotlib"}
"""What ``import advae`` and the modules that hold options must not load, so that ``--help`` is quick."""


# --- reading ------------------------------------------------------------------------------------------------


def imports(file: Path, tree: ast.Module) -> Iterator[tuple[int, list[str]]]:
    """(line, name in parts) of all that ``file``, relative to src, imports; ``from a import b``: a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = list(file.parts[: -node.level]) if node.level else []
            origin += node.module.split(".") if node.module else []
            yield from ((node.lineno, [*origin, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("import_module", "__import__")):
            given = node.args[0] if node.args else None
            yield node.lineno, str(getattr(given, "value", "")).split(".")


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for the expression a.b.c; '' for anything that is not a chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (origin := dotted(node.value)):
        return f"{origin}.{node.attr}"
    return ""


def unit(file: Path) -> str:
    """The entry of FLOORS that a file belongs to; '' for the package's own ``__init__`` and ``__main__``."""
    name = file.parts[1].removesuffix(".py")
    return "" if name in {"__init__", "__main__"} else name


# --- judging ------------------------------------------------------------------------------------------------


def violations(src: Path) -> list[str]:
    """Every breach in the files under ``src/advae``, as ``file:line: what``."""
    found = []
    for path in sorted(src.glob("advae/**/*.py")):
        file, tree = path.relative_to(src), ast.parse(path.read_text(encoding="utf-8"))
        if unit(file) and unit(file) not in FLOORS:
            found.append(f"{file}:1: {unit(file)} stands on no floor")
        problems = [(line, import_problem(src, file, name)) for line, name in imports(file, tree)]
        problems += call_problems(tree)
        found += [f"{file}:{line}: {problem}" for line, problem in problems if problem]
    return list(dict.fromkeys(found + cycles(src)))


def cycles(src: Path) -> list[str]:
    """Files of one folder that import each other in a ring, as ``folder: a -> b -> a``."""
    found = []
    for folder in sorted(path for path in (src / "advae").iterdir() if path.is_dir()):
        files = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
        edges = {
            stem: {
                name[2]
                for _, name in imports(path.relative_to(src), ast.parse(path.read_text(encoding="utf-8")))
                if name[:2] == ["advae", folder.name] and len(name) > 2 and name[2] in files
            }
            for stem, path in files.items()
        }
        found += [f"{folder.name}: {' -> '.join(ring)}" for stem in edges if (ring := ring_from(stem, edges))]
    return found


def ring_from(start: str, edges: dict[str, set[str]]) -> list[str]:
    """A path along ``edges`` from ``start`` back to itself; empty if there is none."""
    paths = [[start]]
    seen = set()
    while paths:
        path = paths.pop()
        for after in sorted(edges.get(path[-1], ())):
            if after == start:
                return [*path, after]
            if after not in seen:
                seen.add(after)
                paths.append([*path, after])
    return []


def import_problem(src: Path, file: Path, name: list[str]) -> str | None:
    """What is wrong with ``file`` importing ``name``; None where nothing is."""
    if name[0] in FORBIDDEN:
        return f"{name[0]} is forbidden"
    own = unit(file)
    if name[0] != "advae" or not own or name == ["advae", "__version__"]:
        return None
    target = name[1] if len(name) > 1 else "advae itself"
    if target == own:
        return sibling_problem(src, file, name)
    if target in SAME_FLOOR.get(own, ()) or FLOORS.get(target, 99) < FLOORS.get(own, 0):
        return None
    return f"{own} (floor {FLOORS.get(own)}) imports {target} (floor {FLOORS.get(target)})"


def sibling_problem(src: Path, file: Path, name: list[str]) -> str | None:
    """Within a folder of alternatives: its ``__init__`` imports what it likes, other files its base files."""
    own, other = unit(file), name[2] if len(name) > 2 else "__init__"
    is_file = (src / "advae" / own / f"{other}.py").is_file() or (src / "advae" / own / other).is_dir()
    if file.stem == "__init__" or not is_file or own not in ALTERNATIVES or other in BASES:
        return None
    return f"{own}/{file.name} imports its neighbour {own}/{other}"


def call_problems(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that could run code from a file: torch.load, and allow_pickle other than False."""
    aliases = torch_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.serialization"}:
            is_load = any(alias.name == "load" for alias in node.names)
        else:
            is_load = dotted(node).replace(".serialization", "") in {f"{name}.load" for name in aliases}
        if is_load:
            yield getattr(node, "lineno", 0), "torch.load is forbidden"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if getattr(node.value, "value", None) is not False:
                yield node.lineno, "allow_pickle must be False"


def torch_names(tree: ast.Module) -> set[str]:
    """The names that a file gives to torch."""
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {"torch", *(alias.asname for alias in aliases if alias.name == "torch" and alias.asname)}


# --- the house itself ---------------------------------------------------------------------------------------


def test_every_import_goes_down_and_nothing_is_unpickled() -> None:
    assert violations(SRC) == []


def option_modules() -> list[str]:
    """What the command loads before it knows what to do: among the rest, ``options.py`` in any folder."""
    files = [SRC / "advae" / name for name in ("errors.py", "files.py", "cli/__init__.py")]
    files += SRC.glob("advae/**/options.py")
    names = [".".join(f.relative_to(SRC).with_suffix("").parts) for f in files if f.is_file()]
    return ["advae", *(name.removesuffix(".__init__") for name in names)]


@pytest.mark.parametrize("module", option_modules())
def test_import_is_light(module: str) -> None:
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert HEAVY & set(json.loads(result.stdout)) == set()


# --- the judge itself: each invented breach is seen, honest files pass --------------------------------------

BREACHES = {
    "up": ("data/images.py", "from advae.methods import VAE\n", "data (floor 1) imports methods"),
    "across": (
        "evaluation/ais.py",
        "import advae.training.trainer\n",
        "evaluation (floor 5) imports training",
    ),
    "files and data": ("files.py", "from advae.data import Split\n", "files (floor 1) imports data"),
    "in a function": (
        "model.py",
        "def f():\n    from advae.cli import main\n",
        "model (floor 3) imports cli",
    ),
    "type only": (
        "ratios.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from advae.model import LatentModel\n",
        "ratios.py:3: ratios (floor 2) imports model",
    ),
    "relative": ("networks/mlp.py", "from ..model import LatentModel\n", "networks (floor 2) imports model"),
    "by name": ("run.py", "import importlib\nimportlib.import_module('advae.report')\n", "run (floor 3)"),
    "front door": ("cli/train.py", "import advae\n", "cli (floor 8) imports advae itself"),
    "through the door": ("cli/train.py", "from advae import train\n", "cli (floor 8) imports train"),
    "neighbour": ("methods/avb.py", "from advae.methods.vae import VAE\n", "avb.py imports its neighbour"),
    "neighbour, short": ("methods/avb.py", "from . import vae\n", "avb.py imports its neighbour"),
    "no floor": ("extra/thing.py", "", "extra stands on no floor"),
    "torchvision": (
        "data/images.py",
        "def f():\n    from torchvision import io\n",
        "torchvision is forbidden",
    ),
    "pickle": ("files.py", "import pickle\n", "pickle is forbidden"),
    "torch.load": ("model.py", "import torch\ntorch.load('x')\n", "model.py:2: torch.load is forbidden"),
    "alias": ("model.py", "import torch as t\nf = t.serialization.load\n", "torch.load is forbidden"),
    "from torch": ("model.py", "from torch import load as read\n", "torch.load is forbidden"),
    "numpy": ("data/arrays.py", "import numpy\nnumpy.load('x', allow_pickle=True)\n", "allow_pickle must be"),
}

HONEST = {
    "errors.py": "import difflib\n",
    "files.py": "from advae.errors import AdvaeError\n",
    "data/arrays.py": "import numpy\nfrom advae.io import a\nnumpy.load('x', allow_pickle=False)\n",
    "methods/__init__.py": "from advae.methods.vae import VAE\n",
    "methods/base.py": "import torch\nfrom advae.density_ratio import logistic\n",
    "methods/vae.py": "import json\nfrom . import VAE2\nfrom .base import Method\njson.load\n",
    "cli/__init__.py": "def main():\n    from advae import __version__\n    from advae.report import page\n",
    "__init__.py": "from advae.cli import main\n",
}


def written(src: Path, files: dict[str, str]) -> Path:
    """A source tree with these files under ``advae/``."""
    for name, source in files.items():
        (src / "advae" / name).parent.mkdir(parents=True, exist_ok=True)
        (src / "advae" / name).write_text(source)
    return src


def test_honest_files_are_let_through(tmp_path: Path) -> None:
    assert violations(written(tmp_path, HONEST)) == []


@pytest.mark.parametrize(("file", "source", "expected"), BREACHES.values(), ids=BREACHES)
def test_breach_is_seen(tmp_path: Path, file: str, source: str, expected: str) -> None:
    found = violations(written(tmp_path, {**HONEST, file: source}))
    assert len(found) == 1
    assert expected in found[0]


def test_layers_are_let_through_and_a_ring_is_seen(tmp_path: Path) -> None:
    files = {"data/protocol.py": "", "data/checks.py": "from advae.data.preprocessing import Protocol\n"}
    assert violations(written(tmp_path, files)) == []
    written(tmp_path, {"data/protocol.py": "def f():\n    from advae.data import checks\n"})
    assert "data: checks -> protocol -> checks" in violations(tmp_path)


def test_a_base_file_on_a_leaf_is_seen(tmp_path: Path) -> None:
    found = violations(written(tmp_path, {**HONEST, "methods/base.py": "from .vae import VAE\n"}))
    assert any("methods/base.py imports its neighbour methods/vae" in line for line in found)
