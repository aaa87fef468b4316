"""The table itself: every published figure beside ours, and what ours are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advae.formatting import format_count, format_with_error
from advae.report.kinds import ADVERSARIAL, MEANINGS, kind_text
from advae.reproduce.details import escaped, markdown
from advae.reproduce.jobs import Record

PLAIN = ("error", "score")  # kinds that need no saying
ABSENT = "–"


def main_table(made: Record) -> str:
    """The table in Markdown."""
    head, lines = cells_of(made)
    return markdown(head, lines, right=len(head) - 1)


def plain_table(made: Record) -> tuple[list[str], list[list[str]]]:
    """The table for a terminal: heads, and rows of cells."""
    signs = {"**": "", "*": "", "<br><sub>": " (", "</sub>": ")", "<br>": "; ", "\\|": "|"}
    head, lines = cells_of(made)
    for sign, text in signs.items():
        lines = [[cell.replace(sign, text) for cell in cells] for cells in lines]
    return head, lines


def cells_of(made: Record) -> tuple[list[str], list[list[str]]]:
    """Every column twice, as published and ours; a column without published figures once."""
    rows, columns = made["rows"], made["columns"]
    told = [name for name in columns if any(name in row["published"] for row in rows)]
    head = [""]
    for name in columns:
        title = titled(made, name)
        head += [f"{title}: published", "ours"] if name in told else [title]
    lines = []
    for row in rows:
        cells = [f"**{row['label']}**"]
        for name in columns:
            cells += [published_text(row["published"].get(name))] if name in told else []
            cells.append(ours_text(row, name, made))
        lines.append(cells)
    return head, lines + yardsticks(made, told)


def names_of(made: Record, name: str) -> list[str]:
    """The names of the estimates that stand in a column, each once and without the unit, which is the column's."""
    figures = [row["figures"][name] for row in made["rows"] if row["figures"][name]]
    return list(dict.fromkeys(short_name(figure) for figure in figures))


def short_name(figure: Mapping[str, Any]) -> str:
    """The name of an estimate without its unit.

    >>> short_name({"name": "elbo[full-normal] (bits/dim)", "unit": "bits/dim"})
    'elbo[full-normal]'
    """
    return str(figure["name"]).removesuffix(f" ({figure['unit']})")


def titled(made: Record, name: str) -> str:
    """A column's heading, with the network where all of its figures are by the same one."""
    title, names = made["columns"][name], names_of(made, name)
    network = names[0][names[0].index("[") :] if len(names) == 1 and "[" in names[0] else ""
    return f"{title} {network}".rstrip()


def published_text(figure: Mapping[str, Any] | None) -> str:
    """A figure as the paper prints it: ≈ where it is an adversarial estimate; what else it is, below."""
    if figure is None:
        return ABSENT
    text = f"{figure['value']}".replace("-", "−")
    text += f" ± {figure['error']}" if figure["error"] is not None else ""
    if figure["kind"] == ADVERSARIAL:
        return f"≈ {text}"
    return small(text, figure["kind"])


def ours_text(row: Record, name: str, made: Record) -> str:
    """Our figure, and below it what it is; or in a word why there is none."""
    figure = row["figures"][name]
    if figure is None:
        return absent(row["runs"], made["needs"][name])
    text = format_with_error(figure["value"], figure["stderr"])
    said = [] if figure["kind"] in PLAIN else [kind_text(figure["kind"])]
    if len(names_of(made, name)) > 1:
        named = short_name(figure)
        said = [escaped(named), *(kind for kind in said if not named.startswith(kind))]
    if figure["spread"] is not None:
        said.append(f"sd {figure['spread']:.2g} over {figure['seeds']} seeds")
    return small(text, ", ".join(said))


def absent(runs: Sequence[Record], need: str) -> str:
    """Why a row has nothing in a column whose figures need this of a model."""
    if not runs:
        return "not run yet"
    can = next((run["can"] for run in runs if "can" in run), None)
    if can is None:
        return "failed"
    return f"no {need}" if need and not can[need] else ABSENT


def yardsticks(made: Record, told: Sequence[str]) -> list[list[str]]:
    """A row of what others than the models get, by the columns that have it."""
    cells = ["*yardstick*"]
    for name in made["columns"]:
        found = [row["yardsticks"].get(name) for row in made["rows"]]
        each = {y["name"]: y for y in found if y}
        texts = [small(format_with_error(y["value"]), escaped(y["name"])) for y in each.values()]
        cells += [ABSENT] if name in told else []
        cells.append("<br>".join(texts) or ABSENT)
    return [cells] if set(cells[1:]) - {ABSENT} else []


def small(text: str, below: str) -> str:
    """A text, and another in small letters below it."""
    return f"{text}<br><sub>{below}</sub>" if below else text


def reading(made: Record) -> list[str]:
    """What the figures of the table are of."""
    figures = [
        (t, r["figures"][n]) for n, t in made["columns"].items() for r in made["rows"] if r["figures"][n]
    ]
    counts: dict[str, dict[str, None]] = {}
    for title, figure in figures:
        counts.setdefault(format_count(figure["n"]), {})[title.partition(",")[0]] = None
    of = "; ".join(f"{', '.join(titles)}: {n} images" for n, titles in counts.items())
    kinds = {figure["kind"] for _, figure in figures}
    said = [
        f"- *{kind_text(kind)}*: {MEANINGS[kind]}."
        for kind in MEANINGS
        if kind in kinds and kind not in PLAIN
    ]
    return [f"Ours are of {of}.", "\n".join(said)] if of else []
