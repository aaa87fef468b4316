"""Arguments of verbs: overrides of a recipe, and errors that say what to do.

Nothing here imports torch, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from advae.errors import ConfigError, nearest

SPLITS = ("test", "validation", "train")
WIDTH = 100  # of the help


class Help(argparse.RawDescriptionHelpFormatter):
    """Examples line by line, and options in two columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=WIDTH)


class Parser(argparse.ArgumentParser):
    """Arguments of a verb: long options in full only, and errors that say what to do.

    Args:
        verb: its name.
        description: what it does, filled to the width of the help.
        examples: command lines, shown after the options.
        usage: the arguments, after the verb.
        dotted: undotted names that are taken, besides all ``--a.b``, as overrides of a recipe; they are found
            in ``overrides`` of what :meth:`parse` returns. None takes no overrides.
    """

    def __init__(
        self,
        verb: str,
        description: str,
        examples: str,
        *,
        usage: str,
        dotted: Sequence[str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            prog=f"advae {verb}",
            usage=f"advae {verb} {usage}",
            description=textwrap.fill(description, WIDTH),
            epilog=f"examples:\n{examples.rstrip()}",
            formatter_class=Help,
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
        own = name in self._option_string_actions
        return (dotted and not own) or name[2:] in (self.dotted or ())

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
    """A whole number from 0 that a random generator takes."""
    return _whole(text, 0, 2**63 - 1)


def _whole(text: str, least: int, most: float = math.inf) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is less than {least}")
    if value > most:
        raise argparse.ArgumentTypeError(f"{value} is more than {most}")
    return value


def one_of(*names: str) -> Callable[[str], str]:
    """A type for argparse: one of these names."""

    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no {text!r}; {nearest(text, names)}")
        return text

    return convert


def add_run(parser: Parser, help: str = "a run directory") -> None:
    """What to look at."""
    parser.add_argument("run", metavar="RUN", help=help)


def add_out(parser: Parser, stem: str, endings: str = ".png or .npz") -> None:
    """``--out`` and ``--seed``."""
    default = f"{stem}{endings.partition(' ')[0]} in the run's folder"
    parser.add_argument("--out", metavar="FILE", help=f"{endings} (default: {default})")
    parser.add_argument(
        "--seed", metavar="N", type=seed, default=0, help="of every draw and choice (default: 0)"
    )


def add_output(parser: Parser, what: str = "the path written") -> None:
    """``--json`` and ``--quiet``."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress and no remarks")


def add_allow(parser: Parser) -> None:
    """``--allow``: whose code may run."""
    text = "let models and recipes import classes from this package"
    parser.add_argument("--allow", metavar="PACKAGE", action="append", default=[], help=text)


def add_model(parser: Parser, *, data: bool = True) -> None:
    """What verbs that load a model need: where to work, whose code may run, where the data lie now."""
    parser.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda or cuda:N")
    add_allow(parser)
    if data:
        text = "where the run's data lie now"
        parser.add_argument("--data.source", metavar="PATH", dest="source", help=text)


def add_examples(parser: Parser) -> None:
    """Which observations to look at."""
    text = "test (default), validation or train"
    parser.add_argument("--split", metavar="NAME", type=one_of(*SPLITS), help=text)
    text = "other data than the run's: anything that data.source may be"
    parser.add_argument("--input", metavar="PATH", help=text)
