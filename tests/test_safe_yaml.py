"""YAML from untrusted files: what is refused, how fast, and that plain values are as PyYAML reads them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

from advae.errors import CheckpointError, ConfigError
from advae.io import read_text
from advae.safe_yaml import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml

RECIPES = resources.files("advae") / "recipes"


@pytest.mark.parametrize("name", [file.name for file in RECIPES.iterdir() if file.name.endswith(".yaml")])
def test_recipes_are_read_as_by_pyyaml(name: str) -> None:
    text = (RECIPES / name).read_text("utf-8")
    assert parse_yaml(text, name) == yaml.safe_load(text)


def test_anchors_and_merge_keys_work() -> None:
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, x: 3}\nd: {<<: [*a, {z: 4, x: 5}]}"
    assert parse_yaml(text, "text") == yaml.safe_load(text)


def test_dates_are_strings() -> None:
    assert parse_yaml("{a: 2024-01-01, b: 2024-01-01 10:00:00}", "text") == {
        "a": "2024-01-01",
        "b": "2024-01-01 10:00:00",
    }


def bomb(levels: int = 60, width: int = 9) -> str:
    """Return lists of aliases of the list before: width to the power of levels values."""
    lines = ["a0: &a0 [x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)])


def merge_bomb(levels: int = 60) -> str:
    return "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, levels))]
    )


REFUSED = {
    "alias bomb": bomb(levels=20),
    "deep alias bomb": bomb(),
    "merge bomb": merge_bomb(levels=30),
    "merged scalar": "a: {<<: 3}",
    "self in a list": "a: &a [*a]",
    "self in a mapping": "a: &a {b: *a}",
    "self by merging": "a: &a {<<: *a}",
    "deep": "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "very deep": "[" * 50_000,
    "deep blocks": "- " * 5_000,
    "many values": "- a\n" * 200_000,
    "key twice": "train: {steps: 1}\nseed: 3\ntrain: {lr: 1}",
    "key twice below": "train: {steps: 1, lr: 2, steps: 3}",
    "integer key": "{1: 2}",
    "null key": "{~: 2}",
    "list key": "{[1, 2]: 2}",
    "object": "!!python/object/apply:os.system ['true']",
    "set": "!!set {a, b}",
    "binary": "!!binary YQ==",
    "not an integer": "!!int x",
    "empty integer": "!!int ''",
    "not a boolean": "!!bool x",
    "too many digits": "9" * 5000,
    "unknown tag": "!thing x",
    "two documents": "a: 1\n---\nb: 2",
    "not YAML": "a: [",
    "control character": "a: \x07",
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsafe_or_ambiguous_text_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"where\.yaml"):
        parse_yaml(REFUSED[name], "where.yaml")
    with pytest.raises(CheckpointError):
        parse_yaml(REFUSED[name], "where.yaml", CheckpointError)


def test_both_lines_of_a_repeated_key_are_named() -> None:
    with pytest.raises(ConfigError, match=re.escape("lines 1 and 3")):
        parse_yaml(REFUSED["key twice"], "where.yaml")


def test_only_regular_utf8_files_of_moderate_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")  # without a writer, reading it would wait for ever
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "latin1.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "large.yaml").write_text("#" * (MAX_BYTES + 1))
    for name in ("pipe", "device", "folder", "loop", "latin1", "large", "missing", "zero\0byte"):
        with pytest.raises(ConfigError, match=name.partition("\0")[0]):
            read_yaml(tmp_path / f"{name}.yaml")
        with pytest.raises(CheckpointError):
            read_text(tmp_path / f"{name}.yaml", max_bytes=MAX_BYTES)


@pytest.mark.integration
def test_files_are_utf8_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: \xcf\x83\r\nb: c\r\n")  # as some editors write it
    program = (
        "import locale, sys; from advae.safe_yaml import read_yaml\n"
        "print(locale.getencoding(), ascii(read_yaml(sys.argv[1])))"
    )
    environment = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": ":".join(sys.path),
    }
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.yaml"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    encoding, _, value = result.stdout.strip().partition(" ")
    assert encoding != "UTF-8" and value == r"{'a': '\u03c3', 'b': 'c'}"
