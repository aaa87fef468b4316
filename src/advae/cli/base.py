"""Arguments of verbs: overrides of a recipe, and errors that say what to do.

Nothing here imports torch, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from advae.errors import ConfigError, nearest

SPLITS = ("test", "validation", "train")


class Parser(argparse.ArgumentParser):
    """Arguments of a verb: long options in full only, and errors that say what to do.

    Args:
        verb: its name.
        description: what it does.
        examples: command lines, shown after the options.
        dotted: undotted names that are taken, besides all ``--a.b``, as overrides of a recipe; they are found
            in ``overrides`` of what :meth:`parse` returns. None takes no overrides.
    """

    def __init__(
        self, verb: str, description: str, examples: str, *, dotted: Sequence[str] | None = None, **more: Any
    ) -> None:
        super().__init__(
            prog=f"advae {verb}",
            description=description,
            epilog=f"examples:\n{examples.rstrip()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )
        self.dotted, self.hints = dotted, dict[str, str]()

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Arguments to values.

        Raises:
            ConfigError: an unknown option (with the nearest), a missing or an impossible value.
        """
        overrides, rest = self._split(list(argv))
        for token in rest[: rest.index("--")] if "--" in rest else rest:
            if token.startswith("--"):
                self._known(token.partition("=")[0])
        args, extra = self.parse_known_args(rest)
        if extra:
            raise ConfigError(f"{self.prog} has no place for {extra[0]!r}", remedy=f"see {self.prog} --help")
        args.overrides = overrides
        return args

    def error(self, message: str) -> NoReturn:
        """argparse's way to say that something is wrong."""
        missing = message.removeprefix("the following arguments are required: ")
        what = f"{missing} is missing" if missing != message else message.removeprefix("argument ")
        usage = " ".join(self.format_usage().split()).removeprefix("usage: ")
        raise ConfigError(what, expected=usage, remedy=f"see {self.prog} --help")

    def _split(self, argv: list[str]) -> tuple[dict[str, str], list[str]]:
        """Overrides, and what is left."""
        overrides: dict[str, str] = {}
        rest: list[str] = []
        tokens = iter(argv)
        for token in tokens:
            name, equals, value = token.partition("=")
            if self.dotted is None or not self._is_override(name):
                rest.append(token)
                continue
            value = value if equals else next(tokens, "--")
            if not equals and value.startswith("--"):
                raise ConfigError(f"{name} needs a value", expected=f"{name} VALUE, or {name}=VALUE")
            overrides[name.removeprefix("--")] = value
        return overrides, rest

    def _is_override(self, name: str) -> bool:
        dotted = re.fullmatch(r"--\w+(\.\w+)+", name) is not None
        return dotted and name not in self._option_string_actions or name[2:] in (self.dotted or ())

    def _known(self, name: str) -> None:
        known = list(self._option_string_actions)
        if name != "--" and name not in known:
            hint = self.hints.get(name.removeprefix("--"))
            remedy = f"did you mean {hint}?" if hint else nearest(name, (k for k in known if k[:2] == "--"))
            raise ConfigError(f"{self.prog} has no option {name!r}", remedy=remedy)


def count(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1)


def seed(text: str) -> int:
    """A whole number from 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is less than {least}")
    return value


def one_of(*names: str) -> Callable[[str], str]:
    """A type for argparse: one of these names."""

    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no {text!r}; {nearest(text, names)}")
        return text

    return convert


def add_output(parser: Parser, what: str = "the result") -> None:
    """``--json`` and ``--quiet``."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress and no remarks")


def add_model(parser: Parser, *, data: bool = True) -> None:
    """What verbs that load a model need: where to work, whose code may run, where the data lie now."""
    parser.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--allow",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="let the model import classes from this package (may be repeated)",
    )
    if data:
        parser.add_argument(
            "--data.source", metavar="PATH", dest="source", help="where the run's data lie now"
        )


def add_examples(parser: Parser) -> None:
    """Which observations to look at."""
    parser.add_argument(
        "--split", metavar="NAME", type=one_of(*SPLITS), help="test (default), validation or train"
    )
    parser.add_argument(
        "--input",
        metavar="PATH",
        help="other data than the run's: a file, a folder, or a data set of the hub",
    )
