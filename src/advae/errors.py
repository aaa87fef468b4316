"""Exceptions that say what is wrong, what was expected and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from advae.renamed_options import conversion_note, current_name

MAX_LISTED = 8  # names in a message


class AdvaeError(Exception):
    """An error whose message is written for the user.

    Args:
        what: one sentence that says what is wrong.
        given: the offending value.
        expected: what a valid value looks like.
        fix: what the user can do.

    >>> print(AdvaeError("Learning rate is negative.", given=-1, expected="> 0", fix="set train.lr"))
    Learning rate is negative.
      given:    -1
      expected: > 0
      fix:      set train.lr
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        given: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.given, self.expected, self.fix = what, given, expected, fix
        lines = [what]
        for label, value in (("given", given), ("expected", expected), ("fix", fix)):
            if value is not None:
                lines.append(f"  {label + ':':<9} {value}")
        super().__init__("\n".join(lines))


class ConfigError(AdvaeError):
    """An option, recipe or component is unknown or has an invalid value."""


class DataError(AdvaeError):
    """Data cannot be read, or do not fit the model or the metric."""


class CheckpointError(AdvaeError):
    """A run directory, checkpoint or saved model cannot be used."""


class WriteError(AdvaeError):
    """A file cannot be written: the disk is full, broken or read-only, or permission is missing."""


class NoDensityError(AdvaeError):
    """A log density was requested of an implicit distribution."""


class UnsupportedError(AdvaeError):
    """The model does not support the requested operation."""


class NotFiniteError(AdvaeError):
    """A loss or gradient is not finite; the weights were not updated."""

    exit_code = 1


def nearest(name: str, known: Iterable[str], listing: str = "") -> str:
    """Return a fix for an unknown name: the known names that are probably meant, and all of them if they are few.

    Args:
        name: the unknown name.
        known: the known names.
        listing: the command that lists them, if they are many.

    >>> nearest("asvae-digit", ["asvae-digits", "vae-digits"])
    "did you mean 'asvae-digits'? Known: asvae-digits, vae-digits"
    """
    known = list(known)
    meant, note = current_name(name, known), conversion_note(name)
    similarity = {k: _similarity(name, k) for k in known}
    threshold = max([0.9 if meant else 0.6, max(similarity.values(), default=0.0) - 0.05])
    close = sorted((k for k in known if similarity[k] >= threshold), key=lambda k: -similarity[k])[:3]
    names = list(dict.fromkeys([meant, *close] if meant else close))
    hints = [f"did you mean {' or '.join(map(repr, names))}?"] if names else []
    hints += [f"({note})"] if meant and note else []
    if len(known) <= MAX_LISTED or not (names or listing):
        hints.append(f"Known: {', '.join(known)}")
    elif listing:
        hints.append(f"{listing} lists all")
    return " ".join(hints)


def _similarity(name: str, known: str) -> float:
    """Compare names, without dashes before them; an option without a section also with the last part of others."""
    bare, other = name.lstrip("-").replace("_", "-"), known.lstrip("-").replace("_", "-")
    others = {other, other.rpartition(".")[2]} if name.startswith("-") and "." not in name else {other}
    return max(SequenceMatcher(None, text, bare).ratio() for text in others)


def first_line(error: BaseException) -> str:
    """Return the type of a foreign exception and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
