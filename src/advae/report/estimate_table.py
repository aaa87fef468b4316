"""Tables of estimates: sections, shared settings, footnotes and remarks.

Settings that all estimates share are in the table's protocol; those of a section in the section's; the others are
footnotes, each written once and referred to by the rows it holds for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from advae.errors import CheckpointError
from advae.formatting import (
    Column,
    Table,
    TableCell,
    TableNote,
    TableRow,
    TableSection,
    common_items,
    format_count,
    format_interval,
    format_settings,
    format_with_error,
    join_items,
)

if TYPE_CHECKING:
    from advae.run import Run

EstimateDict = Mapping[str, Any]

FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "metric", "variant", "kind", "unit", "section", "about", "text"), str),
    **dict.fromkeys(("value", "stderr", "n"), (int, float)),
    "higher_is_better": bool,
    "warning": bool,
    "protocol": dict,
    "interval": list,
    "criteria": list,
}
"""Types of the fields of estimates and remarks, unless they are null or missing."""

ADVERSARIAL, BASELINE, DIAGNOSTIC = "adversarial estimate", "baseline", "diagnostic"
UNRANKED_KINDS = (ADVERSARIAL, BASELINE, DIAGNOSTIC)
KIND_DESCRIPTIONS = {
    "lower bound": "in expectation not above the true value",
    "upper bound": "in expectation not below the true value (bits/dim are those of −log p(x))",
    "unbiased": "its expectation is the true value",
    "exact": "computed in closed form",
    "error": "a distance to the data; lower is better",
    "score": "higher is better",
    BASELINE: "the same metric for held-out data or a simpler model, for reference",
    DIAGNOSTIC: "describes the model or the reliability of another estimate; not used for ranking",
    ADVERSARIAL: "contains a critic’s estimate of a log ratio, which is too low for a weak critic: it can exceed"
    " log p(x), is not a bound and cannot be compared with bounds",
}
SECTION_TITLES = {
    "likelihood": "Likelihood",
    "reconstruction": "Reconstruction",
    "posterior": "Posterior",
    "critics": "Critics",
    "samples": "Samples",
}
MAX_EXCEPTIONS = 2  # rows that a setting in a section's protocol does not hold for
MIN_ROWS_PER_EXCEPTION = 5


@dataclass(frozen=True)
class ProtocolRow:
    """A row with the protocols of its estimates, one for each run, from which its footnotes are made."""

    section: str
    row: TableRow
    protocols: list[dict[str, str]]
    warning: str = ""


def read_evaluation(run: Run) -> tuple[list[EstimateDict], list[EstimateDict]]:
    """Return estimates and remarks of a run's last evaluation.

    Raises:
        CheckpointError: a field has the wrong type.
    """
    estimates, remarks = list[EstimateDict](run.estimates()), list[EstimateDict](run.remarks())
    for row in (*estimates, *remarks):
        for name, types in FIELD_TYPES.items():
            value = row.get(name)
            is_valid = value is None or isinstance(value, types)
            if name == "criteria" and is_valid:
                is_valid = all(isinstance(criterion, dict) for criterion in value or ())
            if not is_valid:
                raise CheckpointError(
                    f"Evaluation has an invalid {name}.",
                    given=f"{run.path / run.eval_folder / 'estimates.json'}: {value!r:.60}",
                    fix="run advae evaluate again",
                )
    return estimates, remarks


def estimate_table(estimates: Sequence[EstimateDict], remarks: Sequence[EstimateDict] = ()) -> Table:
    """Return the table of one run's estimates, as in ``eval/estimates.json``; warnings come before other remarks."""
    columns = [
        Column("metric", breakable=True),
        Column("value", numeric=True),
        Column("95 % interval", numeric=True),
        Column("unit"),
        Column("kind", breakable=True),
        Column("n", numeric=True),
    ]
    ordered = [estimates[i] for i in display_order(estimates)]
    rows = [ProtocolRow(section_of(e), estimate_row(e), [protocol_items(e)]) for e in ordered]
    return build_table(columns, rows, [(remark_section(r, estimates), table_note(r)) for r in remarks])


def build_table(
    columns: list[Column], rows: Sequence[ProtocolRow], notes: Sequence[tuple[str, TableNote]] = ()
) -> Table:
    """Group rows, and notes with their section, into sections, and move shared settings into the protocols."""
    shared = common_items([protocol for row in rows for protocol in row.protocols])
    sections = []
    for name in section_order([*(row.section for row in rows), *(section for section, _ in notes)]):
        of_section = sorted((note for section, note in notes if section == name), key=lambda n: not n.warning)
        members = [row for row in rows if row.section == name]
        sections.append(replace(make_section(members, shared), title=section_title(name), notes=of_section))
    return Table(columns, sections, join_items(shared)).without_empty_columns()


def make_section(rows: Sequence[ProtocolRow], shared: Mapping[str, str]) -> TableSection:
    """Return rows with their protocol and footnotes, without title and notes; ``shared`` is left out of all.

    A setting that nearly all rows share is part of the protocol, with the rows that it does not hold for.
    """
    common = common_items([protocol for row in rows for protocol in row.protocols])
    rows_by_setting: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        for setting in common_items(row.protocols).items():
            if setting[0] not in common:
                rows_by_setting.setdefault(setting, []).append(i)
    settings_by_rows: dict[tuple[int, ...], dict[str, str]] = {}
    for (name, text), indices in rows_by_setting.items():
        settings_by_rows.setdefault(tuple(indices), {})[name] = text

    protocol = [join_items({k: v for k, v in common.items() if k not in shared})]
    notes = list[tuple[str, Sequence[int], bool]]()  # text, rows, whether it is a warning
    for members, settings in settings_by_rows.items():
        exceptions = [row.row.label for i, row in enumerate(rows) if i not in members]
        if len(exceptions) <= MAX_EXCEPTIONS and len(rows) >= MIN_ROWS_PER_EXCEPTION * len(exceptions):
            protocol.append(f"all but {' and '.join(exceptions)}: {join_items(settings)}")
        else:
            notes.append((join_items(settings), members, False))
    for warning in dict.fromkeys(row.warning for row in rows if row.warning):
        notes.append((warning, [i for i, row in enumerate(rows) if row.warning == warning], True))
    footnotes = [TableNote(footnote_mark(k), text, warning) for k, (text, _, warning) in enumerate(notes)]
    marks = [
        ("≠ " if row.warning else "")
        + ",".join(note.label for note, (_, members, _) in zip(footnotes, notes, strict=True) if i in members)
        for i, row in enumerate(rows)
    ]
    marked = [replace(row.row, marks=mark) for row, mark in zip(rows, marks, strict=True)]
    return TableSection("", "; ".join(filter(None, protocol)), marked, footnotes)


def estimate_row(estimate: EstimateDict) -> TableRow:
    """Return the row of one estimate, without footnotes."""
    value, stderr, interval = (estimate.get(key) for key in ("value", "stderr", "interval"))
    kind = str(estimate.get("kind"))
    text, limits = format_with_error(value, stderr, interval), format_interval(interval, stderr)
    return TableRow(
        label=str(estimate.get("name", "")),
        cells=(
            TableCell(text, short=text.partition(" ±")[0] if limits else text),
            TableCell(limits, "muted"),
            TableCell(str(estimate.get("unit") or "")),
            TableCell(describe_kind(kind), "warning" if kind == ADVERSARIAL else ""),
            TableCell(format_count(estimate.get("n"))),
        ),
        baseline=kind == BASELINE,
    )


def display_order(estimates: Sequence[EstimateDict]) -> list[int]:
    """Return the order in which to show estimates: by section, as given, and baselines below what they refer to.

    A baseline refers to the estimate of the same metric whose protocol and unit agree most with its own. Estimates of
    one name in two units follow each other.

    >>> kinds = ("rmse", "error"), ("psnr", "score"), ("rmse", "baseline")
    >>> display_order([{"name": f"{metric}, {kind}", "metric": metric, "kind": kind} for metric, kind in kinds])
    [0, 2, 1]
    """
    sections = section_order(map(section_of, estimates))
    keys = [(section_of(e), e.get("name")) for e in estimates]

    def position(i: int) -> tuple[int, int, bool, int, int]:
        first = keys.index(keys[i])
        above = _baseline_of(estimates, i)
        anchor = first if above is None else keys.index(keys[above])
        return sections.index(keys[i][0]), anchor, above is not None, first, i

    return sorted(range(len(estimates)), key=position)


def _baseline_of(estimates: Sequence[EstimateDict], i: int) -> int | None:
    """Return the estimate that a baseline refers to; None for other kinds, or where there is none."""
    own = estimates[i]
    if own.get("kind") != BASELINE:
        return None
    settings = {**protocol_items(own), "unit": own.get("unit")}.items()
    agreement = {
        k: len(settings & {**protocol_items(e), "unit": e.get("unit")}.items())
        for k, e in enumerate(estimates)
        if e.get("kind") != BASELINE
        and e.get("metric") == own.get("metric")
        and section_of(e) == section_of(own)
    }
    return max(agreement, key=agreement.__getitem__, default=None)


def section_order(names: Iterable[str]) -> list[str]:
    """Return each section once: known ones in their order, others as they came, and "" (without a section) last.

    >>> section_order(["", "samples", "speed", "likelihood", "samples"])
    ['likelihood', 'samples', 'speed', '']
    """
    known, unique = list(SECTION_TITLES), list(dict.fromkeys(names))
    return sorted(unique, key=lambda name: (name == "", known.index(name) if name in known else len(known)))


def section_of(estimate: EstimateDict) -> str:
    """Return the section of an estimate."""
    return str(estimate.get("section") or "")


def section_title(section: str) -> str:
    """Return the heading of a section."""
    return SECTION_TITLES.get(section, section[:1].upper() + section[1:]) or "Remarks"


def protocol_items(estimate: EstimateDict) -> dict[str, str]:
    """Return the protocol of an estimate as names and texts."""
    return format_settings(estimate.get("protocol") or {})


def describe_kind(kind: str) -> str:
    """Return the kind of an estimate, with a warning for adversarial ones."""
    return f"{kind}: not a bound" if kind == ADVERSARIAL else kind


def kind_legend(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """Return the kinds that occur, with their descriptions."""
    kinds = set(kinds)
    return [(kind, text) for kind, text in KIND_DESCRIPTIONS.items() if kind in kinds]


def remark_section(remark: EstimateDict, estimates: Sequence[EstimateDict]) -> str:
    """Return the section of a remark: its own, or that of the section or estimate that it is about, or ""."""
    about = str(remark.get("about", ""))
    if remark.get("section") or about in SECTION_TITLES:
        return str(remark.get("section") or about)
    return next((section_of(e) for e in estimates if about and about in (e.get("name"), e.get("metric"))), "")


def table_note(remark: EstimateDict) -> TableNote:
    """Return a remark as a note; what it is about is left out where the text has it."""
    about, text = str(remark.get("about", "")), str(remark.get("text", ""))
    criteria = tuple(map(criterion_row, remark.get("criteria") or ()))
    is_redundant = about in SECTION_TITLES or about.lower() in text.lower()
    return TableNote("" if is_redundant else about, text, bool(remark.get("warning")), criteria)


def criterion_row(criterion: Mapping[str, Any]) -> tuple[str, str, str, bool]:
    """Return a criterion of a verdict as name, value, threshold, and whether it passed."""
    sign = "≥" if criterion.get("limit") == "min" else "≤"
    value, threshold = (format_with_error(criterion.get(key)) for key in ("value", "threshold"))
    return str(criterion.get("name")), value, f"{sign} {threshold}", bool(criterion.get("passed"))


def footnote_mark(index: int) -> str:
    """
    >>> footnote_mark(0), footnote_mark(25), footnote_mark(26)
    ('a', 'z', 'aa')
    """
    return (footnote_mark(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)
