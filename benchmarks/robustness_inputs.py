"""Malformed recipes, data files and run directories, each a function of a random generator."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.lib import format as npy_format
from PIL import Image, PngImagePlugin
from robustness_kills import ANNEALING
from robustness_sandbox import HOSTILE_MODULE, Sandbox
from safetensors.numpy import load_file

BOMB_BYTES = 3 * 2**29  # 1.5 GB, more than the bound of memory
NUM_ALIASES, NUM_INCLUDES, DEPTH = 9, 24, 2000
IMAGE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
IMAGE_SUFFIXES = (".png", ".jpg", ".tiff", ".gif", ".bmp", ".webp", ".PNG", ".JPEG")
ARRAY_DTYPES = (
    "u1",
    "i1",
    "u2",
    "i4",
    "i8",
    "f2",
    "f4",
    "f8",
    "?",
    "c8",
    "S3",
    "U2",
    "M8[s]",
    ">f4",
    "u4,f4",
)
PAIRS = (
    *(("X", "y"), ("images", "labels"), ("x", "y"), ("x_train", "y_train"), ("data", "target"), ("X", "Y")),
    *(("train_images", "train_labels"), ("y", "X"), ("labels", "images"), ("a", "b"), ("arr_0", "arr_1")),
)
NPZ_KEYS = (
    *(
        "x",
        "X",
        "y",
        "Y",
        "train",
        "test",
        "x_train",
        "y_train",
        "x_test",
        "images",
        "labels",
        "train_images",
    ),
    *("train_labels", "data", "target", "../x", "x/../../y", "", "arr_0", "é", "x_train.npy"),
)
DEVICES = {"zero": (1, 5), "random": (1, 8), "full": (1, 7)}


def hostile_values(rng: random.Random) -> Any:
    """Return a value of a type or size that an option rarely expects."""
    values: list[Any] = [
        *(None, True, False, 0, -1, 1, 7, 10**13, 2**63, -(2**70), 0.5, -0.5, 1e-320, 1e308),
        *(
            float("nan"),
            float("inf"),
            float("-inf"),
            "",
            "x",
            "é😀",
            "a" * 3000,
            "\0",
            "1",
            "1e3",
            "../x",
            "/",
        ),
        *(
            "/dev/zero",
            "/etc/passwd",
            "~",
            "*",
            "OWNER/NAME",
            f"{HOSTILE_MODULE}.Net",
            "os.system",
            "builtins.eval",
        ),
        *(
            [],
            {},
            [[]],
            [None],
            {"name": None},
            {"name": "mlp"},
            {"name": f"{HOSTILE_MODULE}.Net"},
            {"x": {"y": 1}},
        ),
        *(date(2024, 1, 1), b"bytes", [1] * 50, [-1, "x", None], {1: 2}, {date(2024, 1, 1): 1}, {None: 1}),
        *({"name": "os.system", "command": "true"}, [float("nan")], {"base": "vae-digits"}, "mlp", "normal"),
    ]
    return rng.choice(values)


def paths_of(tree: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value in nested mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from paths_of(value, (*prefix, key))


def mutate_tree(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """Return a copy of a tree with some values replaced, deleted, renamed or added; and what was done."""
    tree, done = copy.deepcopy(tree), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = list(paths_of(tree))
        if not paths:
            break
        *parents, key = rng.choice(paths)
        node = tree
        for parent in parents:
            node = node[parent]
        action = rng.choice(("replace", "replace", "replace", "delete", "rename", "add", "wrap"))
        value = hostile_values(rng)
        where = ".".join(map(str, (*parents, key)))
        done.append(f"{action} {where} {value!r:.60}")
        if action == "delete":
            del node[key]
        elif action == "wrap":
            node[key] = rng.choice(([node[key]], {"name": node[key]}, {str(key): node[key]}))
        elif isinstance(node, dict) and action == "rename":
            node[rng.choice((f"{key}x", str(key).upper(), 0, None, True, date(2024, 1, 1)))] = node.pop(key)
        elif isinstance(node, dict) and action == "add":
            node[rng.choice(("extra", "name", 1, "base", "__class__", "<<"))] = value
        else:
            node[key] = value
    return tree, "; ".join(done)


def corrupt_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return bytes with flips, a cut, or foreign content; and what was done."""
    action = rng.choice(
        ("flip", "flip", "flip", "flip many", "cut", "cut", "empty", "zeros", "garbage", "insert")
    )
    content = bytearray(data)
    if action.startswith("flip") and data:
        for _ in range(1 if action == "flip" else rng.randint(2, 50)):
            content[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif action == "cut":
        del content[rng.randrange(len(data) + 1) :]
    elif action == "empty":
        content.clear()
    elif action == "zeros":
        content = bytearray(len(data))
    elif action == "garbage":
        content = bytearray(rng.randbytes(rng.randint(1, 2000)))
    elif action == "insert":
        start = rng.randrange(len(data) + 1)
        content[start:start] = rng.randbytes(rng.randint(1, 50))
    return bytes(content), action


def place_special_file(path: Path, kind: str, sandbox: Sandbox) -> None:
    """Make a fifo, device, folder or symbolic link at a path.

    Raises:
        OSError: the machine does not allow it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    links = {
        "link to a file outside": sandbox.outside / "precious.txt",
        "link to a folder outside": sandbox.outside / "folder",
        "link to nothing": sandbox.root / "nothing",
        "link to /dev/zero": Path("/dev/zero"),
        "link to itself": path,
        "link to /": Path("/"),
    }
    if kind in links:
        path.symlink_to(links[kind])
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mknod(path, 0o600 | 0o020000, os.makedev(*DEVICES[kind.removeprefix("device ")]))


SPECIAL_FILES = (
    *("link to a file outside", "link to a folder outside", "link to nothing", "link to /dev/zero"),
    *("link to itself", "fifo", "folder", "device zero", "device full"),
)


# --- recipes ----------------------------------------------------------------------------------------------------------


def make_recipe(sandbox: Sandbox, recipe: dict[str, Any], rng: random.Random) -> tuple[list[str], str]:
    """Write a malformed recipe; return the arguments of ``advae train`` and what was done."""
    kinds: dict[str, Callable[[], tuple[bytes, str]]] = {
        "tree": lambda: _mutated_recipe(recipe, rng),
        "bytes": lambda: corrupt_bytes(_dump(recipe), rng),
        "text": lambda: _mutated_text(_dump(recipe).decode(), rng),
        "structure": lambda: _hostile_structure(sandbox, _dump(recipe).decode(), rng),
        "base": lambda: _hostile_base(sandbox, recipe, rng),
        "option": lambda: (_dump(recipe), ""),
    }
    (kind,) = rng.choices(list(kinds), (8, 3, 4, 4, 3, 3))
    path = sandbox.work / "recipe.yaml"
    content, done = kinds[kind]()
    path.write_bytes(content)
    argv = ["--config", path.name]
    if kind == "option":
        dotted = rng.choice([".".join(p) for p in paths_of(recipe) if isinstance(p[-1], str)])
        value = hostile_values(rng)
        text = value if isinstance(value, str) and "\0" not in value else repr(value).replace("\0", "")
        if HOSTILE_MODULE in text:  # a class that the command line names may be imported
            text = "None"
        argv += [f"--{dotted}={text}"]
        done = argv[-1]
    elif rng.random() < 0.05:
        special = rng.choice(SPECIAL_FILES)
        path.unlink()
        with suppress(OSError):
            place_special_file(path, special, sandbox)
        return argv, f"recipe is a {special}"
    return argv, f"{kind}: {done}"


def _dump(tree: Any) -> bytes:
    return yaml.dump(tree, allow_unicode=True, sort_keys=False).encode()


def _mutated_recipe(recipe: dict[str, Any], rng: random.Random) -> tuple[bytes, str]:
    tree, done = mutate_tree(recipe, rng)
    return _dump(tree), done


def _mutated_text(text: str, rng: random.Random) -> tuple[bytes, str]:
    """Duplicate, delete or indent lines, or change the encoding."""
    lines = text.splitlines()
    number = rng.randrange(len(lines))
    actions = (
        *(
            "duplicate line",
            "delete line",
            "indent",
            "tab",
            "duplicate section",
            "utf-16",
            "utf-8-sig",
            "latin-1",
        ),
        *("cr", "control characters", "repeat all", "two documents", "surrogate", "quote"),
    )
    action = rng.choice(actions)
    match action:
        case "duplicate line":
            lines.insert(rng.randrange(len(lines)), lines[number])
        case "delete line":
            del lines[number]
        case "indent":
            lines[number] = " " * rng.randint(1, 5) + lines[number]
        case "tab":
            lines[number] = "\t" + lines[number]
        case "duplicate section":
            lines += [
                rng.choice(("train: {steps: 3}", "model: {latent_dim: 3}", "data: {}", "method: {name: avb}"))
            ]
        case "control characters":
            lines[number] += rng.choice(("\x00", "\x07", "\x1b[31m", "\u2028", "\x85"))
        case "repeat all":
            lines *= 2
        case "two documents":
            lines += ["---", *lines]
        case "quote":
            lines[number] += rng.choice("'\"[{&*!|>%@`")
        case "surrogate":
            lines[number] += "é😀"
    encoding = action if action in ("utf-16", "utf-8-sig", "latin-1") else "utf-8"
    joined = ("\r" if action == "cr" else "\n").join(lines) + ("é" if action == "latin-1" else "")
    return joined.encode(encoding), f"{action}, line {number + 1}"


def _hostile_structure(sandbox: Sandbox, text: str, rng: random.Random) -> tuple[bytes, str]:
    """Aliases, cycles, tags, depth and roots of other types."""
    aliases = "a0: &a0 [" + ", ".join(["x"] * 9) + "]\n"
    for i in range(1, NUM_ALIASES):
        aliases += f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]\n"
    code = f"open({str(sandbox.canary)!r},'w').close()"
    choices = {
        "alias bomb": aliases + text,
        "alias bomb in an option": aliases.replace("a8:", "model:"),
        "alias bomb of mappings": "a: &a {x: 1, y: 2}\nb: &b {x: *a, y: *a}\n"
        + "".join(
            f"c{i}: &c{i} {{x: *{p}, y: *{p}}}\n" for i, p in enumerate(["b", *(f"c{i}" for i in range(40))])
        ),
        "cycle": "model: &m {encoder: *m}\n" + text,
        "cycle of lists": "model: &m [*m]\n",
        "cycle by merge": "model: &m\n  <<: *m\n  latent_dim: 2\n",
        "merge of a list": "train: {<<: [1, 2], steps: 1}\n",
        "python object": f"description: !!python/object/apply:eval [{code!r}]\n" + text,
        "python name": "description: !!python/name:os.system\n" + text,
        "python module": f"description: !!python/module:{HOSTILE_MODULE}\n" + text,
        "unknown tag": "description: !secret x\n" + text,
        "deep list": "description: " + "[" * DEPTH + "]" * DEPTH + "\n" + text,
        "deep mapping": "description: " + "{a: " * DEPTH + "1" + "}" * DEPTH + "\n",
        "very deep list": "x: " + "[" * 50 * DEPTH,
        "scalar": "just text",
        "list": "- 1\n- 2\n",
        "nothing": rng.choice(("", "# only a comment\n", "---\n", "null\n", "...\n")),
        "long scalar": "description: " + "x" * 3_000_000 + "\n" + text,
        "many keys": "".join(f"k{i}: 1\n" for i in range(20_000)),
        "binary": "description: !!binary |\n  R0lGODlhDAAMAIQAAP//\n" + text,
        "sexagesimal": text.replace("steps: ", "steps: 1:30:00 # "),
        "base 60 float": text.replace("lr: ", "lr: 1:30.5 # "),
        "null recipe": rng.choice(("recipe: null\n", "seed: null\n", "device: null\n", "base: null\n"))
        + text,
        "flow of nulls": "{data: , model: , method: , train: }",
    }
    name = rng.choice(list(choices))
    return choices[name].encode(), name


def _hostile_base(sandbox: Sandbox, recipe: dict[str, Any], rng: random.Random) -> tuple[bytes, str]:
    """Recipes that include themselves, each other, or other files."""
    for i in range(NUM_INCLUDES):
        following = f"level{i + 1}.yaml"
        (sandbox.work / f"level{i}.yaml").write_text(f"base: [{following}, {following}]\n")
    (sandbox.work / f"level{NUM_INCLUDES}.yaml").write_bytes(_dump(recipe))
    (sandbox.work / "other.yaml").write_text("base: recipe.yaml\n")
    (sandbox.work / "image.yaml").write_bytes(b"\x89PNG\r\n\x1a\n")
    with suppress(OSError):
        place_special_file(sandbox.work / "fifo.yaml", "fifo", sandbox)
        place_special_file(sandbox.work / "zero.yaml", "link to /dev/zero", sandbox)
    bases: list[Any] = [
        *(
            "level0.yaml",
            "other.yaml",
            "recipe.yaml",
            "./recipe.yaml",
            "fifo.yaml",
            "zero.yaml",
            "image.yaml",
        ),
        *(
            "/dev/zero",
            "/etc/passwd",
            "",
            ".",
            "..",
            "x\0y",
            "nothing.yaml",
            "vae-digit",
            "_digits",
            "https://x/y.yaml",
        ),
        *(
            None,
            1,
            [],
            [[]],
            {},
            {"name": "vae-digits"},
            ["vae-digits", 2],
            ["vae-digits"] * 3000,
            True,
            ["recipe.yaml"],
        ),
        *(
            ["level0.yaml", "level3.yaml"],
            "../outside/precious.yaml",
            "a" * 5000 + ".yaml",
            f"{HOSTILE_MODULE}.py",
        ),
    ]
    base = rng.choice(bases)
    return _dump({"base": base} | recipe), f"base: {base!r:.60}"


# --- data -------------------------------------------------------------------------------------------------------------


class Bombs:
    """Files that expand to more than the bound of memory, made once."""

    def __init__(self, folder: Path, is_large: bool = True) -> None:
        self.npz, self.parquet = folder / "bomb.npz", folder / "bomb.parquet"
        size = BOMB_BYTES if is_large else 2**24
        header = io.BytesIO()
        shape = (size // 64, 8, 8)
        npy_format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with (
            zipfile.ZipFile(self.npz, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("x.npy", "w", force_zip64=True) as member,
        ):
            member.write(header.getvalue())
            for _ in range(size // 2**24):
                member.write(bytes(2**24))
        import pyarrow as pa
        import pyarrow.parquet as pq

        cells = pa.array([bytes(size // 12)] * 12, pa.binary())
        pq.write_table(pa.table({"image": cells}), self.parquet, compression="zstd")


Data = tuple[str, str, dict[str, Any]]
"""A source, what was done, and facts that must be read if the source is accepted: ``shape`` and ``count``."""


def make_data(sandbox: Sandbox, bombs: Bombs, rng: random.Random) -> Data:
    """Write a malformed data source into the sandbox."""
    kinds = {
        "npy": (_npy, 4),
        "npy header": (_npy_header, 3),
        "npz": (_npz, 5),
        "zip": (_zip, 3),
        "images": (_images, 5),
        "image tricks": (_image_tricks, 3),
        "folder": (_folder, 5),
        "parquet": (_parquet, 5),
        "text": (_text, 2),
        "special": (_special, 3),
        "name": (_name, 1),
    }
    (kind,) = rng.choices(list(kinds), [weight for _, weight in kinds.values()])
    if rng.random() < 0.015:
        bomb = rng.choice((bombs.npz, bombs.parquet))
        os.link(bomb, sandbox.work / bomb.name)
        return bomb.name, "bomb", {}
    source, done, facts = kinds[kind][0](sandbox, rng)
    return source, f"{kind}: {done}", facts


def _array(rng: random.Random) -> np.ndarray[Any, Any]:
    shapes = (
        *(
            (40, 4, 4),
            (40, 1, 4, 4),
            (40, 4, 4, 3),
            (40, 3, 4, 4),
            (40, 5),
            (40,),
            (),
            (0, 4, 4),
            (1, 4, 4),
            (2, 4),
        ),
        *((40, 0), (40, 1), (40, 1, 1), (40, 2, 2, 2, 2), (4, 40), (3, 1000), (40, 4, 5), (40, 10, 2, 2)),
    )
    shape = rng.choice(shapes)
    numbers = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, shape)
    with np.errstate(all="ignore"):
        dtype = np.dtype(rng.choice(ARRAY_DTYPES))
        array = np.zeros(shape, dtype) if dtype.names else numbers.astype(dtype)
    if array.dtype.kind == "f" and array.size:
        change = rng.choice(("none", "nan", "inf", "huge", "tiny", "constant", "offset"))
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            match change:
                case "nan" | "inf":
                    flat[rng.randrange(flat.size)] = float(change)
                case "huge":
                    flat *= np.finfo(array.dtype).max / 256
                case "tiny":
                    flat *= np.finfo(array.dtype).tiny
                case "constant":
                    flat[:] = 3
                case "offset":
                    flat += flat.dtype.type(1.7e9)
    return np.asfortranarray(array) if rng.random() < 0.2 else array


def _npy_bytes(array: np.ndarray[Any, Any], allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


class _Canary:
    """An object whose unpickling executes code."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def _pickled_npy(sandbox: Sandbox) -> bytes:
    return _npy_bytes(np.array([_Canary(sandbox.code), 1], dtype=object), allow_pickle=True)


def _npy(sandbox: Sandbox, rng: random.Random) -> Data:
    array = _array(rng)
    content, done = _npy_bytes(array), f"{array.dtype} {array.shape}"
    if rng.random() < 0.5:
        content, action = corrupt_bytes(content, rng)
        done += f", {action}"
    elif rng.random() < 0.1:
        content, done = _pickled_npy(sandbox), "pickled objects"
    (sandbox.work / "data.npy").write_bytes(content)
    return "data.npy", done, {}


def _npy_header(sandbox: Sandbox, rng: random.Random) -> Data:
    """A header that promises what the file does not hold."""
    shapes = (
        *(
            "(10**12, 8, 8)",
            "(2**62, 2**62)",
            "(-1, 8, 8)",
            "(0,)*40",
            "(True, 8, 8)",
            "(40, 8.0, 8)",
            "8",
            "None",
        ),
        *(
            "(1000000000000, 8, 8)",
            "(9223372036854775807,)",
            "(4611686018427387904, 4)",
            "(False, 8)",
            "(40, -8, 8)",
        ),
        *("(3000000000,)", "(2000000, 28, 28)", "'x'", "[40, 8, 8]", "(40, 8, 8)", "(40, 10**5000)"),
    )
    descriptions = (
        *(
            "'|u1'",
            "'<f4'",
            "'|O'",
            "'<U1000000000'",
            "'|V2000000000'",
            "'x'",
            "None",
            "[]",
            "'<f16'",
            "'|S0'",
        ),
        *("[('a', '<f4', (10**9,))]", "__import__('os')", "('|u1', (1000000,))", "'|u1' " + "#" * 500),
    )
    descr, order, shape = (
        rng.choice(descriptions),
        rng.choice(("False", "True", "1", "None")),
        rng.choice(shapes),
    )
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if rng.random() < 0.2:
        header = rng.choice(("", "{}", "(" * 500, "{'descr': '|u1'}", header[:30], "[" * 30000))
    text = header.encode() + b"\n"
    version = rng.choice(((1, 0), (2, 0), (3, 0), (9, 9)))
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) if len(text) < 60000 else 60000)
    if rng.random() < 0.15:
        length = b"\xff\xff" if version == (1, 0) else b"\xff\xff\xff\x7f"
    data = b"\x93NUMPY" + bytes(version) + length + text + bytes(40 * 64)
    suffix = rng.choice((".npy", ".npz"))
    path = sandbox.work / f"data{suffix}"
    if suffix == ".npy":
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", data)
    return path.name, f"{suffix} {header[:90]}", {}


@contextmanager
def _unchecked_zip(file: Any, compression: int = zipfile.ZIP_STORED) -> Iterator[zipfile.ZipFile]:
    """Open an archive to write, without the warning for members of the same name."""
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")
        yield archive


def _npz(sandbox: Sandbox, rng: random.Random) -> Data:
    """Archives with arrays under any keys; those with images and labels must be read as images."""
    path, facts = sandbox.work / "data.npz", dict[str, Any]()
    count = rng.choice((30, 40))
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4)).astype("u1")
    labels = rng.choice(
        (np.arange(count) % 3, np.arange(count) * 10**6, np.eye(count)[:, :3], np.arange(count) / 7)
    )
    style = rng.choice(("pair", "pair", "random", "not an array", "corrupt"))
    arrays: dict[str, Any] = {}
    if style in ("pair", "corrupt"):
        keys = rng.choice(PAIRS)
        swapped = keys in (("y", "X"), ("labels", "images"))
        arrays = dict(zip(keys, (labels, images) if swapped else (images, labels), strict=True))
        facts = {"shape": [1, 4, 4], "count": count}
    else:
        for key in rng.sample(NPZ_KEYS, rng.randint(1, 4)):
            arrays[key] = _array(rng)
    with _unchecked_zip(path) as archive:
        for key, array in arrays.items():
            archive.writestr(f"{key}.npy", _npy_bytes(np.asarray(array)))
        if style == "not an array":
            name = rng.choice(("readme.txt", "x_train.npy", "x.npy", "y.npy", "code.py", "x"))
            archive.writestr(name, rng.choice((b"hello", b"", sandbox.code.encode(), _pickled_npy(sandbox))))
    done = f"{style} {[(k, np.shape(a), str(np.asarray(a).dtype)) for k, a in arrays.items()]}"
    if style == "corrupt":
        content, action = corrupt_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
        done, facts = f"{done} {action}", {}
    return path.name, done, facts


def _zip(sandbox: Sandbox, rng: random.Random) -> Data:
    """Archives that are damaged or made with unusual features of the format."""
    path = sandbox.work / "data.npz"
    array = _npy_bytes(np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype("u1"))
    action = rng.choice(
        ("encrypted", "checksum", "lzma", "bzip2", "twice", "nested", "prefix", "comment", "size", "none")
    )
    kinds = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}
    buffer = io.BytesIO()
    with _unchecked_zip(buffer, kinds.get(action, zipfile.ZIP_STORED)) as archive:
        archive.writestr("x.npy", array)
        if action == "twice":
            archive.writestr("x.npy", array[:-100])
        if action == "comment":
            archive.comment = b"x" * 60000
        if action == "none":
            archive.writestr("y", b"")
    content = bytearray(buffer.getvalue())
    central = content.rfind(b"PK\x01\x02")
    if action == "encrypted":
        content[6] |= 1
        content[central + 8] |= 1
    elif action == "checksum":
        content[central + 16] ^= 255
    elif action == "size":
        content[central + 24 : central + 28] = rng.choice(
            (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xfe\xff\xff\xff")
        )
    elif action == "prefix":
        content[:0] = rng.randbytes(rng.randint(1, 500))
    elif action == "nested":
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w") as archive:
            archive.writestr("x.npz", bytes(content))
        content = bytearray(outer.getvalue())
    path.write_bytes(content)
    return path.name, action, {}


def _image(rng: random.Random, size: tuple[int, int] = (8, 8), mode: str | None = None) -> Image.Image:
    mode = mode or rng.choice(IMAGE_MODES)
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size[1], size[0]))
    if mode == "I;16":
        return Image.fromarray((pixels * rng.choice((1, 16, 257))).astype("u2"))
    if mode == "I":
        return Image.fromarray((pixels * rng.choice((1, 10**6))).astype("i4"))
    if mode == "F":
        return Image.fromarray((pixels / rng.choice((1, 255))).astype("f4"))
    return Image.fromarray(pixels.astype("u1")).convert("RGBA" if mode == "LA" else mode).convert(mode)


def _encode(image: Image.Image, suffix: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, Image.registered_extensions()[suffix.lower()], **options)
    except (OSError, ValueError, KeyError):
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, Image.registered_extensions()[suffix.lower()])
    return buffer.getvalue()


def _images(sandbox: Sandbox, rng: random.Random) -> Data:
    """Folders of images of mixed modes, sizes and formats, some of them damaged."""
    folder = sandbox.work / "images"
    mixed = {name: rng.random() < 0.3 for name in ("mode", "size", "suffix", "damage")}
    mode, suffix = rng.choice(IMAGE_MODES), rng.choice(IMAGE_SUFFIXES)
    for i in range(count := rng.choice((3, 12, 24))):
        size = (rng.choice((8, 9, 1, 64)), 8) if mixed["size"] else (8, 8)
        image = _image(rng, size, None if mixed["mode"] else mode)
        ending = rng.choice(IMAGE_SUFFIXES) if mixed["suffix"] else suffix
        content = _encode(image, ending)
        if mixed["damage"] and rng.random() < 0.3:
            content, _ = corrupt_bytes(content, rng)
        path = folder / f"{i:02d}{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return "images", f"{count} × {mode}{suffix}, mixed {[k for k, v in mixed.items() if v]}", {}


def _image_tricks(sandbox: Sandbox, rng: random.Random) -> Data:
    """One image that declares a huge size, many frames, large texts, or an odd orientation, among good ones."""
    folder = sandbox.work / "images"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02d}.png").write_bytes(_encode(_image(rng, mode="L"), ".png"))
    trick = rng.choice(
        ("huge", "huge gif", "frames", "tiff frames", "text", "exif", "wrong suffix", "svg", "ico", "pixels")
    )
    path = folder / rng.choice(("00.png", "05.png", "99.png"))
    match trick:
        case "huge":
            content = bytearray(_encode(_image(rng, mode="L"), ".png"))
            content[16:24] = struct.pack(
                ">II", *rng.choice(((2**31 - 1, 2**31 - 1), (60000, 60000), (0, 0), (12000, 12000)))
            )
            import zlib

            content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
            path.write_bytes(content)
        case "huge gif":
            content = bytearray(_encode(_image(rng, mode="L"), ".gif"))
            content[6:10] = b"\xff\xff\xff\xff"
            path.with_suffix(".gif").write_bytes(content)
        case "frames":
            frames = [_image(rng, mode="L") for _ in range(200)]
            path.with_suffix(".gif").write_bytes(
                _encode(frames[0], ".gif", save_all=True, append_images=frames[1:])
            )
        case "tiff frames":
            frames = [_image(rng, mode="L") for _ in range(5)]
            path.with_suffix(".tiff").write_bytes(
                _encode(frames[0], ".tiff", save_all=True, append_images=frames[1:])
            )
        case "text":
            info = PngImagePlugin.PngInfo()
            info.add_text("comment", "x" * 5_000_000, zip=True)
            path.write_bytes(_encode(_image(rng, mode="L"), ".png", pnginfo=info))
        case "exif":
            exif = Image.Exif()
            exif[0x0112] = rng.choice((0, 3, 6, 8, 99))
            path.write_bytes(
                _encode(_image(rng, mode="RGB"), rng.choice((".png", ".jpg")), exif=exif.tobytes())
            )
        case "wrong suffix":
            path.write_bytes(_encode(_image(rng), rng.choice((".bmp", ".gif", ".jpg", ".tiff"))))
        case "svg":
            path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        case "ico":
            path.with_suffix(".ico").write_bytes(_encode(_image(rng, mode="RGB"), ".bmp"))
        case "pixels":
            path.write_bytes(_encode(Image.new("1", (16000, 16000)), ".png"))
    return "images", f"{trick} at {path.name}", {}


def _folder(sandbox: Sandbox, rng: random.Random) -> Data:
    """Folders with links, fifos, devices, odd names, splits and classes."""
    folder = sandbox.work / "images"
    style = rng.choice(
        ("splits", "classes", "special", "names", "deep", "empty", "many", "linked classes", "mixed")
    )
    parts = {
        "splits": ("train", "test", "val", "training", "testing", "Train", "images/train", "images/testing"),
        "classes": ("a", "b", "c/d", "train/a", "train/b", "test/a", "test/z", "é", " "),
    }.get(style, ("",))
    for part in rng.sample(parts, rng.randint(1, len(parts))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i in range(12):
            (folder / part / f"{i}.png").write_bytes(_encode(_image(rng, mode="L"), ".png"))
    done = style
    match style:
        case "special":
            kind = rng.choice((*SPECIAL_FILES, "link to /"))
            name = rng.choice(("00.png", "x.npz", "x.parquet", "train", "class"))
            done = f"{kind} as {name}"
            with suppress(OSError):
                place_special_file(folder / name, kind, sandbox)
        case "names":
            names = (
                b"\xff\xfe.png",
                b"new\nline.png",
                b" .png",
                b"-rf.png",
                b"%s.png",
                b"a" * 200 + b".png",
                b".png",
            )
            content = _encode(_image(rng, mode="L"), ".png")
            for name in names:
                with open(os.path.join(os.fsencode(folder), name), "wb") as file:
                    file.write(content)
        case "deep":
            path = folder
            for i in range(60):
                path = path / f"d{i}"
            path.mkdir(parents=True)
            (path / "x.png").write_bytes(_encode(_image(rng, mode="L"), ".png"))
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
            (folder / rng.choice((".hidden.png", "readme.md", "x.png"))).touch()
        case "many":
            for i in range(1500):
                (folder / f"e{i}.png").touch()
        case "linked classes":
            (sandbox.work / "elsewhere").mkdir()
            for i in range(12):
                (sandbox.work / "elsewhere" / f"{i}.png").write_bytes(_encode(_image(rng, mode="L"), ".png"))
            (folder / "linked").symlink_to(sandbox.work / "elsewhere")
            (folder / "cycle").symlink_to(folder)
        case "mixed":
            (folder / "x.npy").write_bytes(_npy_bytes(_array(rng)))
            (folder / "x.parquet").write_bytes(b"PAR1")
    return "images", done, {}


def _parquet(sandbox: Sandbox, rng: random.Random) -> Data:
    """Parquet files with columns of any type, damaged or not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = rng.choice((0, 1, 24))
    pictures = [_encode(_image(rng, mode=rng.choice(("L", "RGB", "RGBA"))), ".png") for _ in range(count)]
    for i in range(count):
        if rng.random() < 0.03:
            pictures[i] = rng.choice((None, b"", b"no image", pictures[i][:20]))
    paths = [{"bytes": p, "path": rng.choice((None, "x.png", "/etc/passwd"))} for p in pictures]
    outside = [{"bytes": None, "path": str(sandbox.outside / "precious.txt")}] * count
    images: dict[str, Callable[[], Any]] = {
        "binary": lambda: pa.array(pictures, pa.binary()),
        "large_binary": lambda: pa.array(pictures, pa.large_binary()),
        "binary_view": lambda: pa.array(pictures, pa.binary()).cast(pa.binary_view()),
        "struct": lambda: pa.array(paths, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "paths outside": lambda: pa.array(outside, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "list": lambda: pa.array([[1.0, 2.0]] * count, pa.list_(pa.float64())),
        "nested list": lambda: pa.array([[[0] * 4] * 4] * count, pa.list_(pa.list_(pa.uint8()))),
        "string": lambda: pa.array(["x"] * count),
        "null": lambda: pa.nulls(count),
        "float": lambda: pa.array([float("nan")] * count),
        "decimal": lambda: pa.array([1] * count).cast(pa.decimal128(38, 2)),
        "timestamp": lambda: pa.array([0] * count, pa.timestamp("ns")),
        "dictionary": lambda: pa.array(["a"] * count).dictionary_encode(),
    }
    labels: dict[str, Callable[[], Any]] = {
        "int": lambda: pa.array([i % 3 for i in range(count)]),
        "ids": lambda: pa.array([i * 10**6 for i in range(count)]),
        "string": lambda: pa.array([f"c{i % 3}" for i in range(count)]),
        "null": lambda: pa.array([None if i % 5 == 0 else 1 for i in range(count)], pa.int64()),
        "float": lambda: pa.array([i / 7 for i in range(count)]),
        "list": lambda: pa.array([[1]] * count, pa.list_(pa.int64())),
    }
    image, label = rng.choice(list(images)), rng.choice(list(labels))
    names = rng.choice(
        (("image", "label"), ("img", "labels"), ("image", "image2"), ("", "label"), ("x", "y"))
    )
    table = pa.table(dict(zip(names, (images[image](), labels[label]()), strict=True)))
    done = f"{image}, {label}, {count} rows, {names}"
    if rng.random() < 0.15:
        table = table.replace_schema_metadata(
            {"huggingface": rng.choice(("{}", "[", '{"info": 1}', '{"info": {"features": 3}}'))}
        )
        done += ", metadata"
    style = rng.choice(("file", "folder", "pattern"))
    folder = sandbox.work / "tables"
    folder.mkdir()
    for name in rng.choice((["train"], ["train", "test"], ["data-00", "data-01"], ["test"])):
        path = folder / f"{name}.parquet"
        pq.write_table(table, path, compression=rng.choice(("none", "zstd", "snappy")))
        if rng.random() < 0.4:
            content, action = corrupt_bytes(path.read_bytes(), rng)
            path.write_bytes(content)
            done += f", {name} {action}"
    return (
        {"file": f"tables/{path.name}", "folder": "tables", "pattern": "tables/*.parquet"}[style],
        f"{style}: {done}",
        {},
    )


def _text(sandbox: Sandbox, rng: random.Random) -> Data:
    """Text and other formats under any suffix."""
    contents = (
        *(
            b"a,b\n1,2\n",
            b"",
            b"\n",
            b"%PDF-1.4",
            b"<html>",
            b"{}",
            b"[1, 2]",
            b"PK\x03\x04",
            b"PAR1PAR1",
            b"\x89PNG",
        ),
        *(
            b"GIF89a",
            b"\xff\xd8\xff",
            b"\x93NUMPY",
            b"II*\0",
            b"x" * 2_000_000,
            b"\x80\x04\x95",
            b"SIMPLE  =",
            b"\x89HDF",
        ),
        *(
            b"1 2 3\n" * 40,
            b"a;b\n" + b"1;2\n" * 40,
            b"x\n" + b"1e999\n" * 40,
            "é,ü\n1,2\n".encode("utf-16"),
            b"1,\n,2\n",
        ),
        *(
            b"a,b\n" + b"1,2\n" * 40,
            b"a,b,label\n" + b"1.5,2,c\n3,4,d\n" * 20,
            b'"\n' * 40,
            b"a," * 20000 + b"\n",
        ),
    )
    suffixes = (
        *(
            ".csv",
            ".csv",
            ".csv",
            ".csv",
            ".CSV",
            ".tsv",
            ".npy",
            ".npz",
            ".png",
            ".parquet",
            ".zip",
            ".txt",
            "",
        ),
        *(".json", ".pkl", ".pt", ".h5", ".mat", ".gz", ".yaml", ".arrow"),
    )
    name = f"data{rng.choice(suffixes)}"
    content = rng.choice(contents)
    (sandbox.work / name).write_bytes(content)
    return name, f"{name} {content[:30]!r}", {}


def _special(sandbox: Sandbox, rng: random.Random) -> Data:
    """Fifos, devices, links and folders under the name of a data file."""
    name = f"data{rng.choice(('.npy', '.npz', '.parquet', '.csv', '.png', ''))}"
    kind = rng.choice((*SPECIAL_FILES, "link to /"))
    try:
        place_special_file(sandbox.work / name, kind, sandbox)
    except OSError:
        kind += " (not possible here)"
    source = rng.choice((name, name, f"./{name}", "*.parquet", "*"))
    return source, f"{kind} as {name}, read as {source}", {}


def _name(sandbox: Sandbox, rng: random.Random) -> Data:
    """Sources that are not paths of data."""
    (sandbox.work / "folder").mkdir()
    names = (
        *(
            "",
            " ",
            ".",
            "..",
            "~",
            "~nobody/x",
            "nothing.npy",
            "a/b",
            "a/b/c",
            "OWNER/NAME",
            "[",
            "**",
            "***",
            "?",
        ),
        *(
            "/dev/null",
            "/dev/zero",
            "/dev/stdin",
            "/proc/self/mem",
            "/proc/self/environ",
            "/etc/passwd",
            "folder",
            "-",
        ),
        *(
            "http://localhost:1/x.npy",
            "file:///etc/passwd",
            "s3://x/y",
            "x" * 5000,
            "é.npy",
            "digits ",
            "DIGITS",
            "%s",
        ),
        *(
            "{a,b}.npy",
            "$HOME",
            "`true`",
            "nul",
            "CON",
            "recipe.yaml",
            f"{HOSTILE_MODULE}.py",
            f"{HOSTILE_MODULE}",
        ),
    )
    name = rng.choice(names)
    return name, repr(name)[:80], {}


# --- run directories --------------------------------------------------------------------------------------------------


def damage_run(run: Path, sandbox: Sandbox, rng: random.Random) -> tuple[str, set[str], bool]:
    """Damage a run directory.

    Returns:
        What was done; the relative paths concerned; whether results must not change if a command accepts the run.
    """
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.name != ".lock")
    folders = sorted(p for p in run.rglob("*") if p.is_dir())
    kind = rng.choice(
        (
            "bytes",
            "bytes",
            "bytes",
            "tree",
            "tree",
            "tree",
            "delete",
            "special",
            "link",
            "link",
            "text",
            "import",
        )
    )
    if kind == "bytes":
        path = rng.choice(files)
        content, action = corrupt_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
        is_binary = path.suffix in (".safetensors", ".done", ".state")
        return f"{action}: {_name_of(path, run)}", {_name_of(path, run)}, is_binary
    if kind == "tree":
        path = rng.choice([p for p in files if p.suffix in (".json", ".jsonl", ".yaml")])
        return f"{_mutate_file(path, rng)}: {_name_of(path, run)}", {_name_of(path, run)}, False
    if kind == "delete":
        path = rng.choice([*files, *folders])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return f"delete {_name_of(path, run)}", {_name_of(path, run)}, False
    if kind == "special":
        path = rng.choice([*files, *folders])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        special = rng.choice(SPECIAL_FILES)
        with suppress(OSError):
            place_special_file(path, special, sandbox)
        return f"{special}: {_name_of(path, run)}", {_name_of(path, run)}, False
    if kind == "link":  # to the same content, outside the run
        path = rng.choice([*folders, *folders, *files])
        target = sandbox.outside / "moved"
        shutil.move(path, target)
        path.symlink_to(target)
        return f"moved outside and linked: {_name_of(path, run)}", {_name_of(path, run)}, False
    if kind == "text":
        path = rng.choice([p for p in files if p.suffix in (".json", ".jsonl", ".yaml")])
        contents = (
            *(
                "null",
                "1",
                "[]",
                "{}",
                '""',
                "NaN",
                "[" * 100_000,
                '{"a":' * 100_000,
                "{" + '"a":1,' * 9 + "}",
                "\ufeff{}",
            ),
            *(
                '{"sha256": 1}',
                "1e999",
                "9" * 5000,
                "train: x\n",
                "- a\n",
                "a: &a [*a]\n",
                "'",
                "é",
                "\0",
                "x" * 3_000_000,
            ),
            *(
                "a0: &a0 [x]\n"
                + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)),
            ),
        )
        content = rng.choice(contents)
        path.write_text(content)
        return f"{_name_of(path, run)} is {content[:40]!r}", {_name_of(path, run)}, False
    path = rng.choice([p for p in files if p.name in ("config.json", "config.yaml")])
    text = path.read_text()
    for name in rng.sample(("mlp", "normal", "vae", "avb", "concat", "digits", "dequantize"), 3):
        for quoted in (f'"{name}"', f": {name}"):
            text = text.replace(quoted, quoted.replace(name, f"{HOSTILE_MODULE}.Net"), 1)
    text = text.replace("model.py", f"{HOSTILE_MODULE}.py")
    path.write_text(text)
    return f"hostile import paths in {_name_of(path, run)}", {_name_of(path, run)}, False


def _name_of(path: Path, run: Path) -> str:
    return os.fspath(path.relative_to(run))


def _mutate_file(path: Path, rng: random.Random) -> str:
    """Change values of a JSON or YAML file and keep its syntax valid."""
    text = path.read_text()
    if path.suffix == ".yaml":
        tree, done = mutate_tree(yaml.safe_load(text), rng)
        path.write_bytes(_dump(tree))
        return done
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    number = rng.randrange(len(lines))
    tree, done = mutate_tree(json.loads(lines[number]), rng)
    lines[number] = json.dumps(_with_text_keys(tree), default=str)
    path.write_text("\n".join(lines) + "\n")
    return done


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Operation:
    """A command for a run directory; ``result`` reads what it gives, from its folder and standard output."""

    argv: tuple[str, ...]
    weight: float
    result: Callable[[Path, str], Any] | None = None


def _estimates(work: Path, stdout: str) -> Any:
    rows = json.loads(stdout)["estimates"]
    return {f"{row['name']} {row['unit']}": (row["value"], row["stderr"]) for row in rows}


def _weights(work: Path, stdout: str) -> Any:
    tensors = load_file(work / "run" / "model" / "model.safetensors")
    return {name: value.tolist() for name, value in tensors.items()}


def _samples(work: Path, stdout: str) -> Any:
    with np.load(work / "x.npz") as archive:
        return archive["x"].tolist()


_LIKELIHOOD = ("--likelihood", "elbo,iwae,ais", "--limit", "6", *ANNEALING)
OPERATIONS = (
    Operation(("evaluate", "run", *_LIKELIHOOD, "--seed", "1", "--json"), 6, _estimates),
    Operation(("train", "--resume", "run", "--train.steps", "30", "--no-report", "--quiet"), 6, _weights),
    Operation(("sample", "run", "-n", "4", "--out", "x.npz"), 3, _samples),
    Operation(("sample", "run/model", "-n", "4", "--out", "x.npz"), 2, _samples),
    Operation(("encode", "run", "--out", "x.npz"), 1),
    Operation(("compare", "run", "run"), 1),
    Operation(("report", "run"), 0.5),
)
POSTERIOR_OPERATIONS = (
    Operation(("infer", "model.py", "--resume", "run", "--quiet"), 3),
    Operation(("report", "run"), 1),
)


def choose_operation(operations: Sequence[Operation], rng: random.Random) -> Operation:
    """Return a random operation."""
    return rng.choices(operations, [operation.weight for operation in operations])[0]
