"""Architecture: layers of imports, unique file names, light option modules, nothing unsafe or process-wide.

A module imports only from layers below its own, or from its own folder, without cycles. In a folder of alternatives,
such as the methods, modules import its base module only. Every import counts: inside functions, under
``TYPE_CHECKING``, and ``import_module("advae...")`` with a literal name.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

LAYERS = (
    ("renamed_options", "formatting", "random", "tiling"),
    ("errors",),
    ("io", "registry", "devices", "progress"),
    ("options",),
    ("serialization", "inductor", "safe_yaml"),
    ("data", "distributions", "networks", "density_ratio", "metrics"),
    ("model",),
    ("run", "methods"),
    ("config",),
    ("training", "evaluation"),
    ("report",),
    ("experiment", "reproduce", "inference"),
    ("cli",),
)
"""Modules and folders of ``advae/``, lowest first; its ``__init__`` and ``__main__`` import anything."""

LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units}

ALTERNATIVES = ("advae.methods", "advae.data.readers", "advae.cli")
"""Packages whose modules are independent: one can be read, or deleted, without the rest."""

SHARED_MODULES = {"__init__", "base", "parser", "console", "loaded_model"}
"""Modules of a package of alternatives that the others may import."""

IGNORED_IMPORTS = {
    (
        "advae.evaluation.eval_config",
        "advae.evaluation.likelihood.base",
    ): "valid values are the registered names",
    (
        "advae.evaluation.eval_config",
        "advae.evaluation.samples.base",
    ): "valid values are the registered names",
    ("advae.model", "advae.evaluation.score"): "a method of LatentModel for convenience",
    ("advae.inference.posterior", "advae.inference.diagnostics"): "a method of Posterior for convenience",
    ("advae.inference.posterior", "advae.inference.export"): "a method of Posterior for convenience",
}
"""Imports inside functions that may go up, with the reason."""

FORBIDDEN_MODULES = {"torchvision", "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "ctypes"}
"""torchvision has no build for a CPU-only torch in the package index; unpickling runs code from the file."""

GLOBAL_STATE = {
    "torch.load": set(),
    "torch.manual_seed": {"random.py"},
    "torch.set_rng_state": {"random.py", "training/checkpoint.py"},
    "torch.set_default_dtype": {"devices.py"},
    "torch.set_num_threads": set(),
    "torch.set_float32_matmul_precision": set(),
    "signal.signal": {"training/signals.py"},
    "os.chdir": set(),
}
"""Functions that are unsafe or change the whole process, and the modules that may use them and restore the state."""

SLOW_MODULES = {"torch", "lightning_fabric", "datasets", "sklearn", "matplotlib", "jsonargparse"}
"""What ``import advae`` and option modules must not import, so that ``--help`` is fast."""


# --- reading ------------------------------------------------------------------------------------------------


def imports(file: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import of ``file``, relative to src; ``from a import b`` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = list(file.parts[: -node.level]) if node.level else []
            parts += node.module.split(".") if node.module else []
            yield from ((node.lineno, ".".join([*parts, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("import_module", "__import__")):
            argument = node.args[0] if node.args else None
            yield node.lineno, str(getattr(argument, "value", ""))


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for that expression; an empty string if it is not a chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (prefix := dotted(node.value)):
        return f"{prefix}.{node.attr}"
    return ""


def is_options(module: str) -> bool:
    """Return whether a module only declares options; such modules form a low layer wherever they are."""
    return module.endswith(("_options", "eval_config")) and module != "advae.renamed_options"


def unit(module: str) -> str:
    """Return the entry of LAYERS of a dotted name in advae; an empty string for the package itself."""
    parts = module.split(".")
    if is_options(module):
        return "options"
    return parts[1] if len(parts) > 1 else ""


class Sources:
    """The parsed modules of ``src/advae``, by dotted name."""

    def __init__(self, src: Path) -> None:
        self.files: dict[str, Path] = {}
        for path in sorted(src.glob("advae/**/*.py")):
            name = ".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__")
            self.files[name] = path
        self.trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self.files.items()}
        self.src = src

    def imports(self, module: str) -> list[tuple[int, str]]:
        names = imports(self.files[module].relative_to(self.src), self.trees[module])
        return [(line, name) for line, name in names if (module, self.resolve(name)) not in IGNORED_IMPORTS]

    def resolve(self, name: str) -> str:
        """Return the module that an imported name is or belongs to."""
        while name and name not in self.files:
            name = name.rpartition(".")[0]
        return name


# --- rules --------------------------------------------------------------------------------------------------


def violations(src: Path) -> list[str]:
    """Return all violations in ``src/advae``, as ``file:line: what``."""
    sources, texts = Sources(src), []
    for module, path in sources.files.items():
        file = path.relative_to(src / "advae")
        problems = [(line, import_problem(sources, module, name)) for line, name in sources.imports(module)]
        problems += call_problems(str(file), sources.trees[module])
        if module not in ("advae", "advae.__main__") and unit(module) not in LAYER:
            problems.append((1, f"{unit(module)} is in no layer"))
        texts += [f"{file}:{line}: {problem}" for line, problem in problems if problem]
    return list(dict.fromkeys(texts + cycles(sources) + repeated_names(sources)))


def import_problem(sources: Sources, module: str, name: str) -> str | None:
    """Return what is wrong with ``module`` importing ``name``; None if nothing is."""
    if name.split(".")[0] in FORBIDDEN_MODULES:
        return f"{name.split('.')[0]} is forbidden"
    if not f"{name}.".startswith("advae.") or module in ("advae", "advae.__main__"):
        return None
    target = sources.resolve(name)
    if target == "advae":
        return None if name == "advae.__version__" else f"imports {name} from the package itself"
    own, other = unit(module), unit(target)
    if own == other:
        return neighbor_problem(sources, module, target)
    if LAYER.get(other, 99) < LAYER.get(own, 0):
        return None
    return f"{own} (layer {LAYER.get(own)}) imports {other} (layer {LAYER.get(other)})"


def neighbor_problem(sources: Sources, module: str, target: str) -> str | None:
    for package in ALTERNATIVES:
        is_alternative = module.startswith(f"{package}.") and target.startswith(f"{package}.")
        stems = {sources.files[name].stem for name in (module, target)}
        if is_alternative and module != target and not stems & SHARED_MODULES:
            return f"imports its neighbor {target}"
    return None


def cycles(sources: Sources) -> list[str]:
    """Return modules that import each other in a cycle, as ``cycle: a -> b -> a``; packages themselves do not count."""
    is_module = {name for name, path in sources.files.items() if path.stem != "__init__"}
    edges = {m: {sources.resolve(name) for _, name in sources.imports(m)} & is_module for m in is_module}
    paths = {module: cycle_from(module, edges) for module in sorted(edges)}
    return [f"cycle: {' -> '.join(path)}" for path in paths.values() if path]


def cycle_from(start: str, edges: dict[str, set[str]]) -> list[str]:
    """Return a path along ``edges`` from ``start`` to itself; empty if there is none."""
    paths, visited = [[start]], set()
    while paths:
        path = paths.pop()
        for following in sorted(edges.get(path[-1], ())):
            if following == start:
                return [*path, following]
            if following not in visited:
                visited.add(following)
                paths.append([*path, following])
    return []


def repeated_names(sources: Sources) -> list[str]:
    """Return the names that several files have."""
    counts = Counter(path.name for path in sources.files.values())
    return [
        f"{name}: {n} files" for name, n in counts.items() if n > 1 and name not in ("__init__.py", "base.py")
    ]


def call_problems(file: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield uses of functions that are unsafe or change the whole process."""
    names = {"torch": "torch", "signal": "signal", "os": "os"}
    names |= {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname
    }
    for node in ast.walk(tree):
        used = []
        if isinstance(node, ast.ImportFrom):
            used = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            first, _, rest = dotted(node).partition(".")
            used = [f"{names.get(first, first)}.{rest}"]
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if getattr(node.value, "value", None) is not False:
                yield node.lineno, "allow_pickle must be False"
        for name in used:
            name = name.replace("torch.serialization.", "torch.").replace("torch.random.", "torch.")
            if file not in GLOBAL_STATE.get(name, {file}):
                yield getattr(node, "lineno", 0), f"{name} is forbidden here"


# --- the package --------------------------------------------------------------------------------------------


def test_the_package_follows_the_rules() -> None:
    assert violations(SRC) == []


def option_modules() -> list[str]:
    """Return the modules that the command imports before it knows what to do."""
    names = [name for name in Sources(SRC).files if is_options(name) or name.endswith("_command")]
    return ["advae", "advae.errors", "advae.io", "advae.progress", "advae.cli", *names]


@pytest.mark.integration
def test_importing_options_is_fast() -> None:
    modules = option_modules()
    program = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert len(modules) > 18 and SLOW_MODULES & set(json.loads(result.stdout)) == set()


# --- the rules themselves -----------------------------------------------------------------------------------

VIOLATIONS = {
    "up": ("data/images.py", "from advae.methods import VAE\n", "data (layer 5) imports methods"),
    "same layer": ("evaluation/ais.py", "import advae.training.trainer\n", "imports training"),
    "io and data": ("io.py", "from advae.data import Split\n", "io (layer 2) imports data"),
    "in a function": ("model.py", "def f():\n    from advae.cli import main\n", "imports cli"),
    "type only": (
        "density_ratio.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from advae.model import LatentModel\n",
        "density_ratio.py:3: density_ratio (layer 5) imports model",
    ),
    "relative": ("networks/mlp.py", "from ..model import LatentModel\n", "networks (layer 5) imports model"),
    "by name": ("run.py", "import importlib\nimportlib.import_module('advae.report')\n", "imports report"),
    "options that import": (
        "training/train_options.py",
        "from advae.training.trainer import Trainer\n",
        "options (layer 3) imports training",
    ),
    "the package": ("cli/train_command.py", "import advae\n", "from the package itself"),
    "through the package": ("cli/train_command.py", "from advae import train\n", "from the package itself"),
    "neighbor": ("methods/avb.py", "from advae.methods.vae import VAE\n", "neighbor advae.methods.vae"),
    "relative neighbor": ("methods/avb.py", "from . import vae\n", "neighbor advae.methods.vae"),
    "no layer": ("extra/thing.py", "", "extra is in no layer"),
    "torchvision": (
        "data/images.py",
        "def f():\n    from torchvision import io\n",
        "torchvision is forbidden",
    ),
    "pickle": ("io.py", "import pickle\n", "pickle is forbidden"),
    "torch.load": ("model.py", "import torch\ntorch.load('x')\n", "model.py:2: torch.load is forbidden"),
    "alias": ("model.py", "import torch as t\nf = t.serialization.load\n", "torch.load is forbidden"),
    "from torch": ("model.py", "from torch import load as read\n", "torch.load is forbidden"),
    "global seed": (
        "model.py",
        "import torch\ntorch.random.manual_seed(0)\n",
        "torch.manual_seed is forbidden",
    ),
    "threads": ("run.py", "import torch\ntorch.set_num_threads(1)\n", "torch.set_num_threads is forbidden"),
    "numpy": ("data/arrays.py", "import numpy\nnumpy.load('x', allow_pickle=True)\n", "allow_pickle must be"),
    "repeated name": ("data/vae.py", "", "vae.py: 2 files"),
}

VALID_FILES = {
    "errors.py": "import difflib\n",
    "random.py": "import torch\ntorch.manual_seed(0)\n",
    "io.py": "from advae.errors import AdvaeError\n",
    "data/arrays.py": "import numpy\nfrom advae.io import a\nnumpy.load('x', allow_pickle=False)\n",
    "methods/__init__.py": "from advae.methods.vae import VAE\n",
    "methods/base.py": "import torch\nfrom advae.density_ratio import logistic\n",
    "methods/vae.py": "import json\nfrom . import VAE2\nfrom .base import Method\njson.load\n",
    "density_ratio.py": "",
    "report/__init__.py": "",
    "training/train_options.py": "from advae.errors import ConfigError\n",
    "config.py": "from advae.training.train_options import TrainOptions\n",
    "cli/__init__.py": "def main():\n    from advae import __version__\n    from advae.report import page\n",
    "__init__.py": "from advae.cli import main\n",
}
STUBS = ("model.py", "training/trainer.py", "data/__init__.py", "cli/__init__.py", "networks/__init__.py")


def write_sources(src: Path, files: dict[str, str]) -> Path:
    """Write files under ``advae/``, and stubs of what they may import."""
    for name, source in {**dict.fromkeys(STUBS, ""), **files}.items():
        (src / "advae" / name).parent.mkdir(parents=True, exist_ok=True)
        (src / "advae" / name).write_text(source)
    return src


def test_valid_files_pass(tmp_path: Path) -> None:
    assert violations(write_sources(tmp_path, VALID_FILES)) == []


@pytest.mark.parametrize(("file", "source", "expected"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_reported(tmp_path: Path, file: str, source: str, expected: str) -> None:
    problems = violations(write_sources(tmp_path, {**VALID_FILES, file: source}))
    assert len(problems) == 1
    assert expected in problems[0]


def test_cycles_are_reported(tmp_path: Path) -> None:
    files = {"data/a/one.py": "", "data/two.py": "from advae.data.a.one import One\n"}
    assert violations(write_sources(tmp_path, {**VALID_FILES, **files})) == []
    write_sources(tmp_path, {"data/a/one.py": "def f():\n    from advae.data import two\n"})
    assert "cycle: advae.data.two -> advae.data.a.one -> advae.data.two" in violations(tmp_path)


def test_a_base_module_that_imports_an_alternative_is_reported(tmp_path: Path) -> None:
    files = {**VALID_FILES, "methods/base.py": "from .vae import VAE\n"}
    assert any(line.startswith("cycle") for line in violations(write_sources(tmp_path, files)))
