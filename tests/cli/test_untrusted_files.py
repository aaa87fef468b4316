"""Code named in files: never imported or run unless the command line names it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import py_compile
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import advae as library
from advae import registry
from advae.errors import AdvaeError
from advae.inference import fit, posterior, variational_inference
from advae.inference.model_file import load_model_file
from advae.methods import method_from_model
from inference.targets import SHORT_AIS

PACKAGE = "poisoned_package"
SLOTS = ("method", "model.encoder", "model.posterior", "model.decoder", "model.likelihood", "model.critic")
PATHS = (f"{PACKAGE}.Network", f"{PACKAGE}.nets.Network", f"{PACKAGE}.")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a package on the path that leaves a file when it is imported; check that it never was."""
    path = tmp_path / "executed"
    (tmp_path / "site" / PACKAGE).mkdir(parents=True)
    for name in ("__init__", "nets"):
        code = f"import pathlib\npathlib.Path({str(path)!r}).touch()\nNetwork = None\n"
        (tmp_path / "site" / PACKAGE / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists() and not any(name.startswith(PACKAGE) for name in sys.modules)


def replace_component(config: dict[str, Any], slot: str, name: str) -> None:
    """Name another component in a configuration, or in the description of a saved model."""
    for part in slot.split("."):
        config = config.setdefault(part, {})
    config |= {"name": name}


@pytest.fixture
def poisoned_run(trained: Path, tmp_path: Path, marker: Path, request: pytest.FixtureRequest) -> Path:
    """A run whose configuration and saved models name a component of the package, in one slot."""
    run, slot = tmp_path / "run", request.param
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    replace_component(config, slot, PATHS[0])
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    saved = json.loads((run / "model" / "config.json").read_text())
    replace_component({"model": saved["spec"], "method": saved["info"]["method"]}, slot, PATHS[0])
    if slot == "model.critic":
        saved["critics"] = {"critic": "x,z"}
    (run / "model" / "config.json").write_text(json.dumps(saved))
    return run


@pytest.mark.parametrize("poisoned_run", ["model.encoder"], indirect=True)
def test_no_verb_imports_what_a_run_names(poisoned_run: Path, advae: Any) -> None:
    for verb in ("train --resume", "evaluate", "report", "sample", "encode"):
        result = advae(*verb.split(), poisoned_run)
        assert "Traceback" not in result.err
        assert result.code == 0 or f"--allow {PACKAGE}" in result.err


@pytest.mark.parametrize("poisoned_run", SLOTS, indirect=True)
def test_a_saved_model_does_not_import_what_it_names(poisoned_run: Path) -> None:
    for load in (library.load, library.LatentModel.from_pretrained):
        with pytest.raises(AdvaeError, match=f"--allow {PACKAGE}"):
            method_from_model(load(poisoned_run / "model"))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("slot", SLOTS)
def test_a_recipe_does_not_import_what_it_names(slot: str, path: str, marker: Path, advae: Any) -> None:
    config: dict[str, Any] = {"base": "vae-digits"}
    replace_component(config, slot, path)
    Path("recipe.yaml").write_text(yaml.safe_dump(config))
    result = advae("train", "--config", "recipe.yaml", "--out", "run")
    assert result.code == 2 and f"--allow {PACKAGE}" in result.err


class TypedNetwork(torch.nn.Module):
    """A user's network, some of whose options are classes or functions."""

    def __init__(
        self,
        in_shape: Any,
        out_shape: Any,
        noise_dim: int = 0,
        kind: type = int,
        functions: "tuple[type, ...]" = (),  # noqa: UP037
        module: torch.nn.Module | None = None,
    ) -> None:
        super().__init__()


@pytest.mark.parametrize(
    "option",
    [
        {"kind": PATHS[0]},
        {"functions": [PATHS[0]]},
        {"module": PATHS[0]},
        {"module": {"help": PATHS[0]}},
        {"module": {"class_path": PATHS[0]}},
    ],
    ids=str,
)
def test_options_that_are_classes_are_not_imported(option: dict[str, Any], marker: Path) -> None:
    encoder = {"name": f"{__name__}.TypedNetwork", **option}
    with pytest.raises(AdvaeError):
        library.resolve({"model": {"encoder": encoder}, "method": "vae"})


def test_imported_modules_import_nothing_more(marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_lazily(name: str) -> Any:
        marker.touch()
        return torch.nn.Linear

    monkeypatch.setattr(sys.modules[__name__], "__getattr__", import_lazily, raising=False)
    with pytest.raises(AdvaeError):
        registry._import_class(f"{__name__}.Lazy", "network", torch.nn.Module)


# --- model files of infer -----------------------------------------------------------------------------------

MODEL = "parameters = {'a': ()}\ndef log_joint(a): return -a**2\n"
TINY = ("--family", "mean-field", "--steps", "5", "--fits", "1", "--samples-per-step", "8", "--quiet")


@pytest.fixture
def posterior_run(marker: Path, advae: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(posterior, "DEFAULT_AIS", SHORT_AIS)
    monkeypatch.setattr(variational_inference, "NUM_BASELINE_STEPS", 5)
    monkeypatch.setattr(fit, "LOCATE_STEPS", 5)
    Path("model.py").write_text(MODEL)
    assert advae("infer", "model.py", "--out", "run", *TINY).code == 0
    return Path("run")


def test_resume_runs_only_the_file_on_the_command_line(posterior_run: Path, advae: Any, marker: Path) -> None:
    poison = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    Path("evil.py").write_text(MODEL + poison)
    evil = load_text_source("evil.py", MODEL + poison)
    config = yaml.safe_load((posterior_run / "config.yaml").read_text())
    original = config["source"]
    for source in (evil, original | {"file": evil["file"]}):
        (posterior_run / "config.yaml").write_text(yaml.safe_dump(config | {"source": source}))
        for verb in (("infer", "--resume"), ("report",), ("train", "--resume"), ("evaluate",), ("sample",)):
            assert "Traceback" not in advae(*verb, posterior_run).err
        refused = advae("infer", "--resume", posterior_run)
        assert refused.code == 2 and f"advae infer {evil['file']} --resume run" in refused.err
    (posterior_run / "config.yaml").write_text(yaml.safe_dump(config))
    other = advae("infer", "evil.py", "--resume", posterior_run)
    assert other.code == 2 and "evil.py" in other.err
    assert advae("infer", "model.py", "--resume", posterior_run, "--quiet").code == 0
    shutil.move("model.py", "moved.py")  # the content counts, not the place
    assert advae("infer", "moved.py", "--resume", posterior_run, "--quiet").code == 0


def load_text_source(name: str, text: str) -> dict[str, str]:
    """Return what a run would record about a model file, without running it."""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return {"name": Path(name).stem, "file": str(Path(name).resolve()), "sha256": sha256, "text": text}


def test_a_compiled_file_is_not_run(marker: Path) -> None:
    """An unchecked .pyc in __pycache__ is what ``import`` would run, whatever the source is."""
    Path("other.py").write_text(f"{MODEL}import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    Path("model.py").write_text(MODEL)
    py_compile.compile(
        "other.py",
        cfile=importlib.util.cache_from_source("model.py"),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    assert load_model_file("model.py").parameters == {"a": ()}


def test_a_module_next_to_a_model_file_does_not_replace_an_installed_one(marker: Path) -> None:
    Path("wave.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    sys.modules.pop("wave", None)
    Path("model.py").write_text(f"import wave\n{MODEL}")
    assert load_model_file("model.py").parameters == {"a": ()}


@pytest.mark.parametrize(
    "change",
    [
        {"inference": {"steps": "x"}},
        {"inference": {"hidden": 3}},
        {"inference": [1]},
        {"seed": "a"},
        {"seed": None},
        {"source": 5},
        {"source": {"sha256": 5, "file": 5}},
        {"parameters": 5},
    ],
    ids=str,
)
def test_wrong_types_in_a_configuration(
    change: dict[str, Any], tmp_path: Path, marker: Path, advae: Any
) -> None:
    Path("model.py").write_text(MODEL)
    source = load_text_source("model.py", MODEL)
    config = {"inference": {"steps": 5}, "parameters": {}, "seed": 0, "source": source}
    Path("run").mkdir()
    Path("run/config.yaml").write_text(yaml.safe_dump(config | change))
    result = advae("infer", "model.py", "--resume", "run")
    assert result.code == 2 and "Unexpected" not in result.err
