"""The tables of estimates: a section each, what its figures share said once, and remarks under the figures.

Figures of one section have many settings in common, and a few of their own. The common ones stand above the
table; the others in notes below it, each said once, under letters that the rows they hold for bear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from advae.formatting import common_items, flatten, format_count, format_interval, join_items, round_to_error
from advae.report.kinds import ADVERSARIAL, YARDSTICK, kind_text
from advae.report.ranking import direction

Record = Mapping[str, Any]

FIRST = "likelihood"  # the section of estimates that do not say theirs
TITLES = {
    FIRST: "Likelihood",
    "reconstruction": "Reconstruction",
    "posterior": "Posterior",
    "critics": "Critics",
    "samples": "Samples",
}
FEW, MANY = 2, 5  # rows that may be named as exceptions, and how many rows there are for each of them
HEADLINED = (FIRST, "reconstruction", "samples")


@dataclass(frozen=True)
class Row:
    """One estimate, ready for print; ``note`` has the letters under which its own settings stand."""

    name: str
    value: str
    stderr: str
    interval: str
    unit: str
    kind: str
    n: str
    note: str = ""
    adversarial: bool = False
    yardstick: bool = False


class Said(NamedTuple):
    """A plain sentence, and the figure it is about; empty where the sentence itself says that."""

    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}" if self.about else self.text


@dataclass(frozen=True)
class Section:
    """Estimates that belong together.

    Attributes:
        title: its heading; empty where no estimate says a section.
        protocol: what its rows, or nearly all, share beyond what all sections share.
        rows: the estimates, every yardstick under the figure it measures.
        notes: letters, and the settings of the rows that bear them.
        remarks, warnings: what is said of its figures.
    """

    title: str
    protocol: str
    rows: list[Row]
    notes: list[tuple[str, str]]
    remarks: list[Said]
    warnings: list[Said]

    def has(self, column: str) -> bool:
        """Whether any row has something in the column."""
        return any(getattr(row, column) for row in self.rows)


def sections(estimates: Sequence[Record], remarks: Sequence[Record] = ()) -> tuple[list[Section], str]:
    """The tables, and the part of the protocol that is common to all of them.

    A remark that is about no figure and no section stands in a last one without rows.
    """
    ordered = [estimates[i] for i in arranged(estimates)]
    common = common_items([settings(estimate) for estimate in ordered])
    places = [_place(str(remark.get("about", "")), ordered) for remark in remarks]
    names = in_order([*map(section_of, ordered), *places])
    untitled = not any(estimate.get("section") for estimate in estimates)
    made = [
        _section(
            "" if untitled else title_of(name),
            [estimate for estimate in ordered if section_of(estimate) == name],
            [remark for remark, place in zip(remarks, places, strict=True) if place == name],
            common,
        )
        for name in names
    ]
    return made, join_items(common)


def _section(title: str, estimates: list[Record], remarks: list[Record], known: Mapping[str, str]) -> Section:
    """One table; ``known`` is said for all tables."""
    protocols = [settings(estimate) for estimate in estimates]
    common = common_items(protocols)
    names = [str(estimate.get("name", "")) for estimate in estimates]
    owns = [{k: v for k, v in protocol.items() if k not in common} for protocol in protocols]
    above, borne = notes({k: v for k, v in common.items() if k not in known}, owns, names)
    letters = {rows: letter(i) for i, rows in enumerate(borne)}
    marks = [",".join(letters[rows] for rows in borne if i in rows) for i in range(len(estimates))]
    return Section(
        title=title,
        protocol=above,
        rows=[_row(estimate, mark) for estimate, mark in zip(estimates, marks, strict=True)],
        notes=[(letters[rows], text) for rows, text in borne.items()],
        remarks=[_said(remark, names) for remark in remarks if not remark.get("warning")],
        warnings=[_said(remark, names) for remark in remarks if remark.get("warning")],
    )


def notes(
    common: Mapping[str, str], owns: Sequence[Mapping[str, str]], names: Sequence[str]
) -> tuple[str, dict[tuple[int, ...], str]]:
    """What is to be said above a table, and in notes below it by the rows they hold for.

    What nearly all rows share stands above, with the rows it does not hold for.

    Args:
        common: settings that all rows share.
        owns: of each row the others.
        names: of the rows.

    >>> notes({"split": "test"}, [{"k": "64"}, {"k": "64", "start": "prior"}, {}], ["iwae", "ais", "elbo"])
    ('split test', {(0, 1): 'k 64', (1,): 'start prior'})
    """
    together: dict[tuple[int, ...], dict[str, str]] = {}
    for (name, text), rows in _having(owns).items():
        together.setdefault(rows, {})[name] = text
    above, below = [join_items(common)] if common else [], dict[tuple[int, ...], str]()
    for rows, own in together.items():
        without = [names[i] for i in range(len(names)) if i not in rows]
        if len(without) <= FEW and len(names) >= MANY * len(without):
            above.append(f"all but {' and '.join(without)}: {join_items(own)}")
        else:
            below[rows] = join_items(own)
    return "; ".join(above), below


def _having(owns: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], tuple[int, ...]]:
    """By setting the rows that have it."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for i, own in enumerate(owns):
        for setting in own.items():
            found[setting] = (*found.get(setting, ()), i)
    return found


def _row(estimate: Record, note: str) -> Row:
    value, stderr = round_to_error(*(estimate.get(key) for key in ("value", "stderr", "interval")))
    return Row(
        name=str(estimate.get("name", "")),
        value=value,
        stderr=stderr,
        interval=format_interval(estimate.get("interval"), estimate.get("stderr")),
        unit=str(estimate.get("unit") or ""),
        kind=kind_text(estimate.get("kind")),
        n=format_count(estimate.get("n")),
        note=note,
        adversarial=estimate.get("kind") == ADVERSARIAL,
        yardstick=estimate.get("kind") == YARDSTICK,
    )


def arranged(estimates: Sequence[Record]) -> list[int]:
    """The order to show estimates in: by section, as given, yardsticks right under what they measure.

    Of one name (and different units) they stand under each other.

    >>> names = ("rmse", "error"), ("psnr", "score"), ("rmse (PCA-8)", "baseline")
    >>> arranged([{"name": name, "kind": kind} for name, kind in names])
    [0, 2, 1]
    """
    order = in_order(map(section_of, estimates))
    names = [(section_of(estimate), estimate.get("name")) for estimate in estimates]

    def place(i: int) -> tuple[int, int, bool, int, int]:
        above, same = _measured(estimates, i), names.index(names[i])
        return order.index(names[i][0]), same if above is None else above, above is not None, same, i

    return sorted(range(len(estimates)), key=place)


def _measured(estimates: Sequence[Record], i: int) -> int | None:
    """The figure that a yardstick measures: of its section the one with the longest name that begins its own."""
    if estimates[i].get("kind") != YARDSTICK:
        return None
    name, found = str(estimates[i].get("name", "")), list[tuple[int, int]]()
    for k, other in enumerate(estimates):
        head = str(other.get("name", ""))
        if other.get("kind") != YARDSTICK and head and name.startswith((f"{head} ", f"{head}(")):
            found += [(-len(head), k)] if section_of(other) == section_of(estimates[i]) else []
    return min(found)[1] if found else None


def in_order(names: Iterable[str]) -> list[str]:
    """Each section once: ours in their order, then others as they came, and last "", which is none.

    >>> in_order(["", "samples", "speed", "likelihood", "samples"])
    ['likelihood', 'samples', 'speed', '']
    """
    known, found = list(TITLES), list(dict.fromkeys(names))
    return sorted(found, key=lambda name: (name == "", known.index(name) if name in known else len(known)))


def section_of(estimate: Record) -> str:
    """The section of an estimate."""
    return str(estimate.get("section") or FIRST)


def title_of(section: str) -> str:
    """A section's heading."""
    return TITLES.get(section, section[:1].upper() + section[1:]) or "Remarks"


def settings(estimate: Record) -> dict[str, str]:
    """The protocol of an estimate as names and texts."""
    return flatten(estimate.get("protocol") or {})


def _place(about: str, estimates: Sequence[Record]) -> str:
    """The section that a remark belongs to: named itself, or by one of its figures, or by a part of a name."""
    names = {str(e.get("name", "")).lower(): section_of(e) for e in estimates}
    about = about.strip().lower()
    if not about:
        return ""
    candidates = (
        *(s for s in (*TITLES, *names.values()) if about in (s, s.removesuffix("s"))),
        *(section for name, section in names.items() if name == about),
        *(section for name, section in names.items() if name.startswith(about) or f"[{about}]" in name),
        *(section for name, section in names.items() if name and about.startswith(name)),
        *(s for s in TITLES if about.startswith(s.removesuffix("s"))),
        *(section for name, section in names.items() if about in name),
    )
    return next(iter(candidates), "")


def _said(remark: Record, names: Sequence[str]) -> Said:
    """A remark, with the name of its figure where its text does not have it."""
    about, text = str(remark.get("about", "")), str(remark.get("text", ""))
    return Said(about if about in names and about.lower() not in text.lower() else "", text)


def letter(i: int) -> str:
    """The i-th mark of a note.

    >>> letter(0), letter(25), letter(26)
    ('a', 'z', 'aa')
    """
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def headlines(estimates: Sequence[Record]) -> list[Row]:
    """The figures to name first: of likelihood, reconstruction and samples the first that ranks models."""
    rows: dict[str, Row] = {}
    for estimate in (estimates[i] for i in arranged(estimates)):
        name, kind, unit = (str(estimate.get(key) or "") for key in ("name", "kind", "unit"))
        # Figures of old files say no section, and are headlines by their names.
        group = str(estimate.get("section") or name)
        if direction(name, unit, kind) and (not estimate.get("section") or group in HEADLINED):
            rows.setdefault(group, _row(estimate, ""))
    return list(rows.values())[: len(HEADLINED)]
