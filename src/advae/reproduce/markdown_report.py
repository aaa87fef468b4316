"""The results of a table: NAME.json, NAME.md with published values next to ours, and image grids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from advae.formatting import (
    Column,
    Table,
    TableCell,
    TableRow,
    TableSection,
    escape_markdown,
    format_count,
    format_duration,
    format_with_error,
    markdown_table,
)
from advae.io import write_atomically, write_json
from advae.report.comparison import compare
from advae.report.estimate_table import ADVERSARIAL, KIND_DESCRIPTIONS, describe_kind
from advae.report.figures.image_grid import labeled_grids
from advae.report.figures.style import to_png
from advae.reproduce.evaluate_job import load_images
from advae.reproduce.plan import Plan, Record
from advae.reproduce.results import EvaluatedRun, available_differences, table_record

OBVIOUS_KINDS = ("error", "score")  # that need no explanation
ABSENT = "–"
DIFFERENCES_TITLE = "Paired differences"
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
    parts = [
        f"# {record['title']}",
        f"{record['source']}. Made by `{command}`. {describe_data(runs)}",
        steps_warning(runs),
        markdown_table(results_table(record), bold_labels=True),
        *table_legend(record),
        *differences_section(record),
        *failures(runs),
        "## Training",
        markdown_table(training_table(record["rows"])),
        *grid_sections(record["table"], grids),
        *estimates_section(record["rows"]),
        "## Notes",
        "\n".join(f"- {' '.join(note.split())}" for note in [*record["notes"], COMMON_NOTE]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- the table ----------------------------------------------------------------------------------------------


def results_table(record: Record) -> Table:
    """Return the table with every column as published and ours, or once if nothing was published."""
    rows, columns = record["rows"], record["columns"]
    published = {name for name in columns if any(name in row["published"] for row in rows)}
    titles, baselines, cells = list[str](), list[TableCell](), [list[TableCell]() for _ in rows]
    for name in columns:
        title = column_title(record, name)
        titles += [f"{title}: published", "ours"] if name in published else [title]
        baselines += [TableCell(ABSENT)] * (name in published)
        baselines.append(baseline_cell(rows, name))
        for row, row_cells in zip(rows, cells, strict=True):
            row_cells += [published_cell(row["published"].get(name))] * (name in published)
            row_cells.append(value_cell(row, name, record))
    table_rows = [TableRow(row["label"], tuple(cs)) for row, cs in zip(rows, cells, strict=True)]
    if any(cell.text != ABSENT for cell in baselines):
        table_rows.append(TableRow("baseline", tuple(baselines), baseline=True))
    heads = [Column(""), *(Column(title, numeric=True) for title in titles)]
    return Table(heads, [TableSection("", "", table_rows)])


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


def published_cell(value: Mapping[str, Any] | None) -> TableCell:
    """Return a value as the paper prints it, with ≈ before adversarial estimates."""
    if value is None:
        return TableCell(ABSENT)
    text = f"{value['value']}".replace("-", "−")
    text += f" ± {value['error']}" if value["error"] is not None else ""
    return TableCell(f"≈ {text}") if value["kind"] == ADVERSARIAL else TableCell(text, note=value["kind"])


def value_cell(row: Record, name: str, record: Record) -> TableCell:
    """Return our value, with its kind below; or why there is none."""
    value = row["values"][name]
    if value is None:
        return TableCell(missing_value(row["runs"], record["needs"][name]))
    notes = [] if value["kind"] in OBVIOUS_KINDS else [describe_kind(value["kind"])]
    if len(column_variants(record, name)) > 1:
        label = estimate_label(value)
        notes = [label, *(kind for kind in notes if not label.startswith(kind))]
    if value["seed_std"] is not None:
        notes.append(f"sd {value['seed_std']:.2g} over {value['seeds']} seeds")
    return TableCell(format_with_error(value["value"], value["stderr"]), note=", ".join(notes))


def missing_value(runs: Sequence[Record], need: str) -> str:
    """Return why a row has no value in a column that needs this of a model."""
    if not runs:
        return "not run yet"
    supports = next((run["supports"] for run in runs if "supports" in run), None)
    if supports is None:
        return "failed"
    return f"no {need}" if need and not supports[need] else ABSENT


def baseline_cell(rows: Sequence[Record], name: str) -> TableCell:
    """Return the distinct baselines of a column."""
    baselines = {b["name"]: b for row in rows if (b := row["baselines"].get(name))}
    texts = [f"{format_with_error(b['value'])} ({key})" for key, b in baselines.items()]
    return TableCell("; ".join(texts) or ABSENT)


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


def difference_table(record: Record) -> Table | None:
    """Return the rows and columns of a table record that have paired differences; None if there are none."""
    labels = {row["recipe"]: row["label"] for row in record["rows"]}
    rows = [(row, differences) for row in record["rows"] if (differences := available_differences(row))]
    columns = [name for name in record["columns"] if any(name in differences for _, differences in rows)]
    texts = [
        [
            f"{row['label']} − {labels[row['differences']['recipe']]}",
            *(format_signed(differences[name]) if name in differences else ABSENT for name in columns),
        ]
        for row, differences in rows
    ]
    titles = [record["columns"][name] for name in columns]
    return Table.from_texts(["", *titles], texts, right=titles) if rows else None


def format_signed(difference: Mapping[str, Any]) -> str:
    """Return a difference with its sign and error."""
    text = format_with_error(difference["value"], difference["stderr"])
    return text if text.startswith("−") else f"+{text}"


def differences_section(record: Record) -> list[str]:
    """Return the section on paired differences; empty if there are none."""
    table = difference_table(record)
    if table is None:
        return []
    counts = {d["n"] for row in record["rows"] for d in available_differences(row).values()}
    return [
        f"## {DIFFERENCES_TITLE}",
        f"Differences on the same {' or '.join(format_count(n) for n in sorted(counts))} test images, where both values"
        " are of the same kind. Some images are harder than others for every model; this is most of the ± above, and"
        " does not contribute to the ± here.",
        markdown_table(table),
    ]


def describe_data(runs: Iterable[Record]) -> str:
    """Return the data that runs were trained on."""
    texts = {}
    for data in (run["data"] for run in runs if "data" in run):
        sizes = ", ".join(f"{format_count(n)} {split}" for split, n in data["sizes"].items())
        preprocessing = data["preprocessing"]["name"]
        key = data["checksum"], preprocessing
        texts[key] = f"{data['name']} ({sizes}), preprocessing {preprocessing}"
    return f"Data: {'; '.join(texts.values())}." if texts else ""


def steps_warning(runs: Sequence[Record]) -> str:
    """Return a warning if rows were trained for fewer steps than their recipes say, or an empty string."""
    steps = {run["recipe"]: (run["planned_steps"], run["recipe_steps"]) for run in runs}
    shorter = [
        f"{name} {format_count(n)} of {format_count(full)}" for name, (n, full) in steps.items() if n < full
    ]
    if not shorter:
        return ""
    return (
        f"**Trained for fewer steps than the recipes say**: {', '.join(shorter)}. Values after short training say"
        " little about the methods."
    )


def failures(runs: Iterable[Record]) -> list[str]:
    """Return the section on failed runs; empty if there are none."""
    lines = [
        f"- {run['recipe']}, seed {run['seed']}: {'; '.join(' '.join(x.split()) for x in run['error'].splitlines())}"
        for run in runs
        if "error" in run
    ]
    return ["## Failed", escape_markdown("\n".join(lines))] if lines else []


def training_table(rows: Sequence[Record]) -> Table:
    """Return the table of how each run was trained."""
    titles = ["", "recipe", "seed", "steps", "time", "ms per step", "parameters", "device"]
    texts = []
    for row in rows:
        for run in row["runs"]:
            training = ["failed"] + [ABSENT] * 4 if "error" in run else training_texts(run)
            texts.append([row["label"], f"`{run['recipe']}`", str(run["seed"]), *training])
    return Table.from_texts(titles, texts)


def training_texts(run: Record) -> list[str]:
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
        notes = "\n".join(f"- {escape_markdown(str(note))}" for note in section.footnotes)
        summary = f"<details><summary>{section.title}: {len(section.rows)} estimates</summary>"
        protocol = escape_markdown(section.protocol)
        parts += [summary, protocol, markdown_table(table, section.rows), notes, "</details>"]
    parts.append(f"Common to all: {escape_markdown(table.protocol)}." if table.protocol else "")
    remarks = {label: run["remarks"] for label, run in records.items() if run["remarks"]}
    parts += ["## Remarks"] if remarks else []
    for label, items in remarks.items():
        lines = [f"- {'**warning** ' * r.get('warning', False)}{r['about']}: {r['text']}" for r in items]
        parts += [f"**{label}**", escape_markdown("\n".join(lines))]
    return parts


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
        title = f"{kind.capitalize()}{f', {data}' if data else ''}"
        parts += [f"## {title}", f"![{kind}]({table}-{key}.png)", CAPTIONS[kind]]
    return parts
