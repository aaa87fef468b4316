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
        "last_validation": {key: value for key, value in last["validation"].items() if "/" in key},
    }


def page(title: str, records: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    names = list(dict.fromkeys(e["name"] for r in records for e in r["estimates"]))
    kinds = {e["name"]: f"{e['unit']}, {e['kind']}" for r in records for e in r["estimates"]}
    lines = [f"# {title}", "", "| | " + " | ".join(r["recipe"] for r in records) + " |"]
    lines.append("| --- |" + " --- |" * len(records))
    for name in names:
        found = [next((e for e in r["estimates"] if e["name"] == name), None) for r in records]
        cells = [f"{e['value']:.2f} ± {e['stderr']:.2f}" if e else "–" for e in found]
        lines.append(f"| {name} ({kinds[name]}) | " + " | ".join(cells) + " |")
    for key in ("critic/accuracy", "critic/saturation"):
        cells = [r["last_validation"].get(f"validation/{key}") for r in records]
        if any(c is not None for c in cells):
            shown = " | ".join("–" if c is None else f"{c:.3f}" for c in cells)
            lines.append(f"| {key}, validation | {shown} |")
    for key in ("published", "steps", "batch", "seed", "device"):
        lines.append(f"| {key} | " + " | ".join(str(r[key]) or "–" for r in records) + " |")
    lines.append("| minutes | " + " | ".join(f"{r['seconds'] / 60:.0f}" for r in records) + " |")
    e = records[0]["estimates"][0]
    protocol = e["protocol"]
    lines += [
        "",
        f"{protocol['data']}, {protocol['split']} split, {e['n']} images, observed as {protocol['observation']};"
        " ± is the standard error over images. An adversarial estimate contains the critic's opinion of a KL:"
        " it is not a bound, and is not to be compared with one.",
        "",
    ]
    return "\n".join(lines)


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
