"""The results of a table: NAME.json, NAME.md with every published figure beside ours, and sheets of images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advae.formatting import format_count, format_duration, format_with_error
from advae.io import write_atomically
from advae.report.figures.image_grid import sheets_beside
from advae.report.figures.style import png
from advae.reproduce import against
from advae.reproduce.beside import ABSENT, main_table, reading
from advae.reproduce.details import details, escaped, markdown
from advae.reproduce.evaluate_job import kept_images
from advae.reproduce.jobs import Plan, Record
from advae.reproduce.results import whole
from advae.run import Run


def publish(plan: Plan, records: Sequence[Record], out: Path) -> list[Path]:
    """Write the JSON record, the page made from it, and the sheets; gives their paths."""
    made, name = whole(plan, records), plan.table.name
    sheets = drawn(plan, records)
    paths = [out / f"{name}.json", out / f"{name}.md", *(out / f"{name}-{key}.png" for key in sheets)]
    write_atomically(paths[0], json.dumps(finite(made), indent=1, ensure_ascii=False) + "\n")
    write_atomically(paths[1], page(made, command(plan), list(sheets)))
    for path, sheet in zip(paths[2:], sheets.values(), strict=True):
        write_atomically(path, sheet)
    return paths


def command(plan: Plan) -> str:
    """The command that makes the page, without where things lie."""
    wanted, words = plan.wanted, ["advae reproduce", plan.table.name]
    words += [f"--rows {','.join(wanted.rows)}"] if wanted.rows else []
    words += [f"--budget {wanted.budget:g}s"] if wanted.budget is not None else []
    words += [f"--seeds {','.join(map(str, wanted.seeds))}"] if wanted.seeds else []
    names = {"limit": "images"}
    words += [f"--{names.get(name, name)} {value}" for name, value in wanted.judge.items()]
    return " ".join(words)


def finite(value: Any) -> Any:
    """JSON has no word for a number that is not finite: null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- the page -----------------------------------------------------------------------------------------------


def page(made: Record, command: str, sheets: Sequence[str]) -> str:
    """The page of a table as :func:`advae.reproduce.results.whole` gives it."""
    runs = [run for row in made["rows"] for run in row["runs"]]
    parts = [
        f"# {made['title']}",
        f"{made['source']}. Made by `{command}`. {data_text(runs)}",
        *steps_notice(runs, made["budget"]),
        main_table(made),
        *reading(made),
        *against.section(made),
        *failures(made["rows"]),
        "## How trained",
        runs_table(made["rows"]),
        *sheet_texts(made["table"], sheets),
        *details(made["rows"]),
        "## To know",
        "\n".join(f"- {' '.join(note.split())}" for note in [*made["notes"], *COMMON]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


COMMON = (
    "± is the standard error over images; of published figures it is the paper's own. Every figure's whole protocol is"
    " in the JSON file beside this page, with the configuration of every run.",
)


def data_text(runs: Iterable[Record]) -> str:
    """The data that runs were trained on, each once."""
    seen = {}
    for run in runs:
        if data := run.get("data"):
            sizes = ", ".join(f"{format_count(n)} {part}" for part, n in data["sizes"].items())
            seen[data["checksum"], data["preprocessing"]["name"]] = (
                f"{data_name(data['name'])} ({sizes}), observed as {data['preprocessing']['name']}"
            )
    return f"Data: {'; '.join(seen.values())}." if seen else ""


def data_name(name: str) -> str:
    """A data set's name for people.

    >>> data_name("cifar10-jpeg"), data_name("mnist"), data_name("my-photographs")
    ('CIFAR-10 (JPEG)', 'MNIST', 'my-photographs')
    """
    stem, _, more = name.partition("-")
    known = {"mnist": "MNIST", "cifar10": "CIFAR-10", "imagenet64": "ImageNet 64", "imagenet": "ImageNet"}
    if stem not in known:
        return name
    return f"{known[stem]} ({more.upper()})" if more else known[stem]


def steps_notice(runs: Sequence[Record], budget: float | None) -> list[str]:
    """That rows were trained for fewer steps than their recipes say."""
    rows = {run["recipe"]: (run["planned_steps"], run["recipe_steps"]) for run in runs}
    short = {name: of for name, of in rows.items() if of[0] < of[1]}
    if not short:
        return []
    each = ", ".join(f"{name} {format_count(n)} of {format_count(full)}" for name, (n, full) in short.items())
    why = f"all of them in about {format_duration(budget)}" if budget else "by request"
    return [
        f"**Trained for fewer steps than the recipes say**, {why}: {each}. What is printed here is what so short a"
        " training gives, and says little of the methods."
    ]


def failures(rows: Sequence[Record]) -> list[str]:
    """Every run that failed, with its error."""
    failed = [
        (run["recipe"], run["seed"], run["error"]) for row in rows for run in row["runs"] if "error" in run
    ]
    if not failed:
        return []
    lines = [
        f"- {name}, seed {seed}: {'; '.join(' '.join(line.split()) for line in text.splitlines())}"
        for name, seed, text in failed
    ]
    return ["## Failed", "\n".join(escaped(line) for line in lines)]


def runs_table(rows: Sequence[Record]) -> str:
    """How each run was trained."""
    head = ["", "recipe", "seed", "steps", "time", "ms a step", "parameters", "device"]
    lines = []
    for row in rows:
        for run in row["runs"]:
            cells = [row["label"], f"`{run['recipe']}`", str(run["seed"])]
            lines.append([*cells, *(["failed"] + [ABSENT] * 4 if "error" in run else trained_cells(run))])
    return markdown(head, lines)


def trained_cells(run: Record) -> list[str]:
    """Steps, time, milliseconds a step, parameters and device of a run."""
    steps = f"{format_count(run['steps'])} of {format_count(run['recipe_steps'])}"
    steps += " (stopped early)" if run["steps"] < run["planned_steps"] else ""
    critics = sum(n for name, n in run["parameters"].items() if name.startswith("critic"))
    weights = format_count(sum(run["parameters"].values()) - critics)
    weights += f" + {format_count(critics)} in critics" if critics else ""
    return [steps, format_duration(run["seconds"]), format_with_error(run["ms_per_step"]), weights, run["device"]]


# --- the sheets ---------------------------------------------------------------------------------------------


def drawn(plan: Plan, records: Sequence[Record]) -> dict[str, bytes]:
    """Sheets as PNG by the ends of their names: samples and reconstructions, of each data set by themselves.

    Every row's first run is shown, after the test images themselves.
    """
    blocks: dict[str, dict[str, dict[str, NDArray[np.uint8]]]] = {}
    for row in plan.table.rows:
        run = next((r for r in records if r["recipe"] == row.name and "error" not in r), None)
        images = kept_images(Run(Path(run["run"]))) if run else {}
        for kind in ("samples", "reconstructions"):
            if run and kind in images:
                sheet = blocks.setdefault(run["data"]["name"], {}).setdefault(kind, {})
                sheet.setdefault("test images", images["test"])
                sheet[row.label] = images[kind]
    several = len(blocks) > 1
    return {
        f"{data}-{kind}" if several else kind: png(sheets_beside(sheet))
        for data, kinds in blocks.items()
        for kind, sheet in kinds.items()
    }


def sheet_texts(table: str, sheets: Sequence[str]) -> list[str]:
    """The sheets with what they show."""
    captions = {
        "samples": "Means of p(x|z) at codes drawn from the prior (draws, where a decoder is implicit or draws pixel"
        " by pixel), of each row's first seed, beside test images; not selected.",
        "reconstructions": "The same test images, first as they are observed, then encoded and decoded by each row's"
        " first seed.",
    }
    parts = []
    for key in sheets:
        data, _, kind = key.rpartition("-")
        title = f"{kind.capitalize()}{f', {data_name(data)}' if data else ''}"
        parts += [f"## {title}", f"![{kind}]({table}-{key}.png)", captions[kind]]
    return parts
