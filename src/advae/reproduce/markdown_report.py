"""The results of a table: NAME.json, NAME.md with published values next to ours, and image grids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from advae.formatting import format_count, format_duration, format_with_error
from advae.io import write_atomically, write_json
from advae.report.comparison import compare
from advae.report.estimate_table import ADVERSARIAL, KIND_DESCRIPTIONS, Table, TableSection, describe_kind
from advae.report.figures.image_grid import labeled_grids
from advae.report.figures.style import to_png
from advae.reproduce.evaluate_job import load_images
from advae.reproduce.paired_differences import EvaluatedRun, available, difference_cells
from advae.reproduce.plan import Plan, Record
from advae.reproduce.results import table_record

OBVIOUS_KINDS = ("error", "score")  # that need no explanation
ABSENT = "–"
DIFFERENCES_TITLE = "Paired differences"
DATA_NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "imagenet64": "ImageNet 64", "imagenet": "ImageNet"}
CAPTIONS = {
    "samples": "Means of p(x|z) at latents from the prior (samples of implicit and autoregressive decoders) for each"
    " row's first seed, below test images; not selected.",
    "reconstructions": "The same test images, preprocessed (first), and encoded and decoded by each row's first seed.",
}
COMMON_NOTE = (
    "± is the standard error over examples; of published values it is the paper's own. The JSON file of the same name"
    " has the protocol of every estimate and the configuration of every run."
)


def write_report(plan: Plan, records: Sequence[Record], out: Path) -> list[Path]:
    """Write the JSON record, the page made from it, and the image grids; return their paths."""
    record, name = table_record(plan, records), plan.table.name
    grids = make_grids(record)
    paths = [out / f"{name}.json", out / f"{name}.md", *(out / f"{name}-{key}.png" for key in grids)]
    write_json(paths[0], record)
    write_atomically(paths[1], make_page(record, command_line(plan), list(grids)))
    for path, grid in zip(paths[2:], grids.values(), strict=True):
        write_atomically(path, grid)
    return paths


def command_line(plan: Plan) -> str:
    """Return the command that makes the page, without paths."""
    options, words = plan.options, ["advae reproduce", plan.table.name]
    words += [f"--rows {','.join(options.rows)}"] if options.rows else []
    words += [f"--steps {options.max_steps}"] if options.max_steps else []
    words += [f"--seeds {','.join(map(str, options.seeds))}"] if options.seeds else []
    flags = {"limit": "images", "feature_extractor": "feature-extractor"}
    words += [f"--{flags.get(name, name)} {value}" for name, value in options.evaluation.items()]
    return " ".join(words)


def make_page(record: Record, command: str, grids: Sequence[str]) -> str:
    """Return the page of a table record."""
    runs = [run for row in record["rows"] for run in row["runs"]]
    head, cells = table_cells(record)
    parts = [
        f"# {record['title']}",
        f"{record['source']}. Made by `{command}`. {describe_data(runs)}",
        *steps_warning(runs),
        markdown_table(head, cells, right=len(head) - 1),
        *table_legend(record),
        *differences_section(record),
        *failures(runs),
        "## Training",
        training_table(record["rows"]),
        *grid_sections(record["table"], grids),
        *estimates_section(record["rows"]),
        "## Notes",
        "\n".join(f"- {' '.join(note.split())}" for note in [*record["notes"], COMMON_NOTE]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- the table ----------------------------------------------------------------------------------------------


def plain_table(record: Record) -> tuple[list[str], list[list[str]]]:
    """Return the table for a terminal: heads and cells."""
    markup = {"**": "", "*": "", "<br><sub>": " (", "</sub>": ")", "<br>": "; ", "\\|": "|"}
    head, cells = table_cells(record)
    for mark, text in markup.items():
        cells = [[cell.replace(mark, text) for cell in row] for row in cells]
    return head, cells


def table_cells(record: Record) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells: every column as published and ours, or once if nothing was published."""
    rows, columns = record["rows"], record["columns"]
    published = [name for name in columns if any(name in row["published"] for row in rows)]
    head, baselines = [""], ["*baseline*"]
    for name in columns:
        title = column_title(record, name)
        head += [f"{title}: published", "ours"] if name in published else [title]
        baselines += [ABSENT] if name in published else []
        baselines.append(baseline_cell(rows, name))
    cells = []
    for row in rows:
        cells.append([f"**{row['label']}**"])
        for name in columns:
            cells[-1] += [published_cell(row["published"].get(name))] if name in published else []
            cells[-1].append(value_cell(row, name, record))
    return head, cells + ([baselines] if set(baselines[1:]) - {ABSENT} else [])


def column_variants(record: Record, name: str) -> list[str]:
    """Return the distinct labels of a column's estimates."""
    values = [row["values"][name] for row in record["rows"] if row["values"][name]]
    return list(dict.fromkeys(estimate_label(value) for value in values))


def estimate_label(estimate: Mapping[str, Any]) -> str:
    """
    >>> estimate_label({"metric": "elbo", "variant": "full-normal"}), estimate_label({"metric": "ais", "variant": ""})
    ('elbo [full-normal]', 'ais')
    """
    metric, variant = estimate["metric"], estimate["variant"]
    return f"{metric} [{variant}]" if variant else str(metric)


def column_title(record: Record, name: str) -> str:
    """Return a column's heading, with the variant if all its estimates have the same one."""
    values = [row["values"][name] for row in record["rows"] if row["values"][name]]
    title, variant = str(record["columns"][name]), values[0]["variant"] if values else ""
    is_uniform = len(column_variants(record, name)) == 1 and bool(variant)
    return f"{title} [{variant}]" if is_uniform else title


def published_cell(value: Mapping[str, Any] | None) -> str:
    """Return a value as the paper prints it, with ≈ before adversarial estimates."""
    if value is None:
        return ABSENT
    text = f"{value['value']}".replace("-", "−")
    text += f" ± {value['error']}" if value["error"] is not None else ""
    return f"≈ {text}" if value["kind"] == ADVERSARIAL else with_subtext(text, value["kind"])


def value_cell(row: Record, name: str, record: Record) -> str:
    """Return our value, with its kind below; or why there is none."""
    value = row["values"][name]
    if value is None:
        return missing_value(row["runs"], record["needs"][name])
    notes = [] if value["kind"] in OBVIOUS_KINDS else [describe_kind(value["kind"])]
    if len(column_variants(record, name)) > 1:
        label = escape(estimate_label(value))
        notes = [label, *(kind for kind in notes if not label.startswith(kind))]
    if value["seed_std"] is not None:
        notes.append(f"sd {value['seed_std']:.2g} over {value['seeds']} seeds")
    return with_subtext(format_with_error(value["value"], value["stderr"]), ", ".join(notes))


def missing_value(runs: Sequence[Record], need: str) -> str:
    """Return why a row has no value in a column that needs this of a model."""
    if not runs:
        return "not run yet"
    supports = next((run["supports"] for run in runs if "supports" in run), None)
    if supports is None:
        return "failed"
    return f"no {need}" if need and not supports[need] else ABSENT


def baseline_cell(rows: Sequence[Record], name: str) -> str:
    """Return the distinct baselines of a column."""
    baselines = {b["name"]: b for row in rows if (b := row["baselines"].get(name))}
    texts = [with_subtext(format_with_error(b["value"]), escape(key)) for key, b in baselines.items()]
    return "<br>".join(texts) or ABSENT


def table_legend(record: Record) -> list[str]:
    """Return the numbers of examples of each column, and what the kinds mean."""
    by_count: dict[str, dict[str, None]] = {}
    kinds = set()
    for name, title in record["columns"].items():
        for value in filter(None, (row["values"][name] for row in record["rows"])):
            by_count.setdefault(format_count(value["n"]), {})[title.partition(",")[0]] = None
            kinds.add(value["kind"])
    if not by_count:
        return []
    counts = "; ".join(f"{', '.join(titles)}: {n} images" for n, titles in by_count.items())
    meanings = [
        f"- *{describe_kind(kind)}*: {text}."
        for kind, text in KIND_DESCRIPTIONS.items()
        if kind in kinds and kind not in OBVIOUS_KINDS
    ]
    return [f"Number of examples: {counts}.", "\n".join(meanings)]


# --- sections -----------------------------------------------------------------------------------------------


def differences_section(record: Record) -> list[str]:
    """Return the section on paired differences; empty if there are none."""
    head, cells = difference_cells(record)
    if not cells:
        return []
    counts = {d["n"] for row in record["rows"] for d in available(row).values()}
    return [
        f"## {DIFFERENCES_TITLE}",
        f"Differences on the same {' or '.join(format_count(n) for n in sorted(counts))} test images, where both values"
        " are of the same kind. Some images are harder than others for every model; this is most of the ± above, and"
        " does not contribute to the ± here.",
        markdown_table(head, cells, right=len(head) - 1),
    ]


def describe_data(runs: Iterable[Record]) -> str:
    """Return the data that runs were trained on."""
    texts = {}
    for data in (run["data"] for run in runs if "data" in run):
        sizes = ", ".join(f"{format_count(n)} {split}" for split, n in data["sizes"].items())
        preprocessing = data["preprocessing"]["name"]
        key = data["checksum"], preprocessing
        texts[key] = f"{data_name(data['name'])} ({sizes}), preprocessing {preprocessing}"
    return f"Data: {'; '.join(texts.values())}." if texts else ""


def data_name(name: str) -> str:
    """Return a data set's name for people.

    >>> data_name("cifar10-jpeg"), data_name("mnist"), data_name("my-photographs")
    ('CIFAR-10 (JPEG)', 'MNIST', 'my-photographs')
    """
    stem, _, variant = name.partition("-")
    if stem not in DATA_NAMES:
        return name
    return f"{DATA_NAMES[stem]} ({variant.upper()})" if variant else DATA_NAMES[stem]


def steps_warning(runs: Sequence[Record]) -> list[str]:
    """Return a warning if rows were trained for fewer steps than their recipes say."""
    steps = {run["recipe"]: (run["planned_steps"], run["recipe_steps"]) for run in runs}
    shorter = [
        f"{name} {format_count(n)} of {format_count(full)}" for name, (n, full) in steps.items() if n < full
    ]
    if not shorter:
        return []
    return [
        f"**Trained for fewer steps than the recipes say**: {', '.join(shorter)}. Values after short training say"
        " little about the methods."
    ]


def failures(runs: Iterable[Record]) -> list[str]:
    """Return the section on failed runs; empty if there are none."""
    failed = [(f"{run['recipe']}, seed {run['seed']}", run["error"]) for run in runs if "error" in run]
    lines = [
        f"- {run}: {'; '.join(' '.join(line.split()) for line in error.splitlines())}"
        for run, error in failed
    ]
    return ["## Failed", "\n".join(map(escape, lines))] if failed else []


def training_table(rows: Sequence[Record]) -> str:
    """Return the table of how each run was trained."""
    head = ["", "recipe", "seed", "steps", "time", "ms per step", "parameters", "device"]
    cells = []
    for row in rows:
        for run in row["runs"]:
            training = ["failed"] + [ABSENT] * 4 if "error" in run else training_cells(run)
            cells.append([row["label"], f"`{run['recipe']}`", str(run["seed"]), *training])
    return markdown_table(head, cells)


def training_cells(run: Record) -> list[str]:
    """Return steps, time, milliseconds per step, parameters and device of a run."""
    steps = f"{format_count(run['steps'])} of {format_count(run['recipe_steps'])}"
    steps += " (stopped early)" if run["steps"] < run["planned_steps"] else ""
    critics = sum(n for name, n in run["parameters"].items() if name.startswith("critic"))
    parameters = format_count(sum(run["parameters"].values()) - critics)
    parameters += f" + {format_count(critics)} in critics" if critics else ""
    time, per_step = format_duration(run["seconds"]), format_with_error(run["ms_per_step"])
    return [steps, time, per_step, parameters, run["device"]]


def estimates_section(rows: Sequence[Record]) -> list[str]:
    """Return all estimates of every row's first run, then the remarks on them."""
    first = {row["label"]: next((r for r in row["runs"] if "supports" in r), None) for row in rows}
    records = {label: run for label, run in first.items() if run}
    if not records:
        return []
    table = compare([EvaluatedRun.from_record(run) for run in records.values()], list(records)).table()
    parts = [
        "## All estimates",
        "First seed of each row; **best**, or within two standard errors of the difference from it (a paired difference"
        " where both are means over the same examples).",
    ]
    for section in table.sections:
        parts += estimates_table(section, table)
    parts.append(f"Common to all: {escape(table.protocol)}." if table.protocol else "")
    remarks = {label: run["remarks"] for label, run in records.items() if run["remarks"]}
    parts += ["## Remarks"] if remarks else []
    for label, items in remarks.items():
        lines = [f"- {'**warning** ' * r.get('warning', False)}{r['about']}: {r['text']}" for r in items]
        parts += [f"**{label}**", "\n".join(map(escape, lines))]
    return parts


def estimates_table(section: TableSection, table: Table) -> list[str]:
    """Return the table of one section with its footnotes."""
    cells = [
        [
            escape(row.label),
            *(f"**{c.text}**" if c.style == "best" else escape(c.text) for c in row.cells),
            row.marks,
        ]
        for row in section.rows
    ]
    head = ["", *(column.title for column in table.columns[1:]), "note"]
    notes = "\n".join(f"- {note.mark}: {escape(note.text)}" for note in section.footnotes)
    summary = f"<details><summary>{section.title}: {len(cells)} estimates</summary>"
    return [summary, escape(section.protocol), markdown_table(head, cells), notes, "</details>"]


# --- image grids --------------------------------------------------------------------------------------------


def make_grids(record: Record) -> dict[str, bytes]:
    """Return image grids as PNG, by the suffixes of their file names: samples and reconstructions of each data set.

    They show every row's first run, after test images.
    """
    images: dict[str, dict[str, dict[str, NDArray[Any]]]] = {}
    for row in record["rows"]:
        run = next((r for r in row["runs"] if "error" not in r), None)
        of_run = load_images(run)
        for kind in CAPTIONS:
            if run and kind in of_run:
                grid = images.setdefault(run["data"]["name"], {}).setdefault(kind, {})
                grid.setdefault("test images", of_run["test"])
                grid[row["label"]] = of_run[kind]
    return {
        f"{data}-{kind}" if len(images) > 1 else kind: to_png(labeled_grids(grid))
        for data, kinds in images.items()
        for kind, grid in kinds.items()
    }


def grid_sections(table: str, grids: Sequence[str]) -> list[str]:
    """Return a section for each image grid."""
    parts = []
    for key in grids:
        data, _, kind = key.rpartition("-")
        title = f"{kind.capitalize()}{f', {data_name(data)}' if data else ''}"
        parts += [f"## {title}", f"![{kind}]({table}-{key}.png)", CAPTIONS[kind]]
    return parts


# --- Markdown -----------------------------------------------------------------------------------------------


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0) -> str:
    """Return a Markdown table with its last ``right`` columns aligned right."""
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def with_subtext(text: str, below: str) -> str:
    """Return a text with another one in small letters below it."""
    return f"{text}<br><sub>{below}</sub>" if below else text


def escape(text: str) -> str:
    """Return a text for a table's cell.

    >>> escape("KL(q(z|x) ‖ p)")
    'KL(q(z\\\\|x) ‖ p)'
    """
    return text.replace("|", "\\|")
