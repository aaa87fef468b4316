"""A table of finished, evaluated runs as JSON and Markdown, for results/.

    python benchmarks/table.py runs/a runs/b --name mnist-fc32 --title "Table 3a of AVB, started"

Writes results/NAME.json (configurations, devices, times, estimates with protocols, the critics' last validation) and,
from it, results/NAME.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from advae.report.tables import rounded
from advae.run import Run

RESULTS = Path(__file__).parents[1] / "results"


def record(run: Run) -> dict[str, Any]:
    """What a run has to say of itself."""
    config, env, rows = run.config, run.env, run.metrics()
    last = {split: [row for row in rows if row["split"] == split][-1] for split in ("train", "validation")}
    data = {key: env["data"][key] for key in ("name", "sizes", "protocol", "checksum")}
    return {
        "recipe": config["recipe"],
        "published": config["published"],
        "seed": config["seed"],
        "steps": last["train"]["step"],
        "batch": config["train"]["batch"],
        "seconds": last["train"]["time"],
        "device": env["device"],
        "versions": env["versions"],
        "data": data,
        "method": config["method"],
        "model": config["model"],
        "train": config["train"],
        "estimates": run.estimates(),
        "remarks": run.remarks(),
        "last_validation": {key: value for key, value in last["validation"].items() if "/" in key},
    }


def page(title: str, records: list[dict[str, Any]]) -> str:
    """The tables as Markdown, one a section, then what the figures mean."""
    lines = [f"# {title}", "", *head(records)]
    for section in ("likelihood", "reconstruction", "posterior", "critics", "samples"):
        lines += table(section, records)
    for record in records:
        lines += [f"**{record['recipe']}**", ""] if record["remarks"] else []
        lines += [f"- *{r['about']}*: {r['text']}" for r in record["remarks"]] + [""]
    shared = set.intersection(*(settings(e) for r in records for e in r["estimates"]))
    lines += [
        f"Common to all figures: {', '.join(sorted(shared))}. ± is the standard error over images. An adversarial"
        " estimate contains the critic's opinion of a KL: it is not a bound, and is not to be compared with one."
        " Every figure's whole protocol is in the JSON file beside this page.",
        "",
    ]
    return "\n".join(lines)


def head(records: list[dict[str, Any]]) -> list[str]:
    """What was trained."""
    lines = ["| | " + " | ".join(r["recipe"] for r in records) + " |", "| --- |" + " --- |" * len(records)]
    for key in ("published", "steps", "batch", "seed", "device"):
        lines.append(f"| {key} | " + " | ".join(str(r[key]) or "–" for r in records) + " |")
    minutes = " | ".join(f"{r['seconds'] / 60:.0f}" for r in records)
    return [*lines, f"| minutes | {minutes} |", ""]


def table(section: str, records: list[dict[str, Any]]) -> list[str]:
    """The figures of one section, a run a column."""
    found = [{e["name"]: e for e in r["estimates"] if e["section"] == section} for r in records]
    names = list(dict.fromkeys(name for each in found for name in each))
    if not names:
        return []
    lines = [
        f"## {section.capitalize()}",
        "",
        "| | kind | n | " + " | ".join(r["recipe"] for r in records) + " |",
    ]
    lines.append("| --- | --- | --- |" + " --- |" * len(records))
    for name in names:
        cells = [each.get(name) for each in found]
        one = next(cell for cell in cells if cell)
        kind = ", ".join(filter(None, (one["unit"], one["kind"])))
        lines.append(f"| {name} | {kind} | {one['n']:,} | " + " | ".join(map(cell_text, cells)) + " |")
    return [*lines, ""]


def cell_text(estimate: dict[str, Any] | None) -> str:
    """A figure with its error."""
    if estimate is None:
        return "–"
    value, error = rounded(estimate["value"], estimate["stderr"])
    return f"{value} ± {error}" if error else value


def settings(estimate: dict[str, Any]) -> set[str]:
    """Its protocol, as names and values."""
    return {f"{key} {value}" for key, value in estimate["protocol"].items() if not isinstance(value, dict)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--title", required=True)
    args = parser.parse_args()
    records = [record(Run.open(path)) for path in args.runs]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(records, indent=1) + "\n")
    (RESULTS / f"{args.name}.md").write_text(page(args.title, records))


if __name__ == "__main__":
    main()
