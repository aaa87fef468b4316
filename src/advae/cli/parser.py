"""Command-line parsers generated from dataclasses.

A verb declares its options once, as a frozen dataclass: a field is an option, its type says which values are valid, and
the string below it is the help text. A field whose type is another dataclass, such as ``EvalConfig``, contributes the
options of that dataclass. Nothing here imports torch, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import pairwise
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from advae.errors import ConfigError, nearest

HELP_WIDTH = 100
POSITIONAL, REPEATED, HIDDEN = "positional", "repeated", "hidden"  # marks of a field, next to its METAVAR


@dataclass(frozen=True)
class Range:
    """The integers or numbers that an option accepts."""

    low: float
    high: float


Count = Annotated[int, Range(1, float("inf")), "N"]
Seed = Annotated[int, Range(0, 2**63 - 1), "N"]
Name = Annotated[str, "NAME"]
FilePath = Annotated[str, "FILE"]
FolderPath = Annotated[str, "DIR"]
DataPath = Annotated[str, "PATH"]
RunPath = Annotated[str, "RUN", POSITIONAL]
Split = Literal["test", "validation", "train"]


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Options of all verbs."""

    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Print no progress and no remarks."""
    debug: bool = False
    """Show the traceback of an error."""
    command: Annotated[str, HIDDEN] = ""
    """The command line."""
    given: Annotated[frozenset[str], HIDDEN] = frozenset()
    """Names of the options on the command line."""


@dataclass(frozen=True, kw_only=True)
class AllowOptions(OutputOptions):
    """Options of verbs that may import a user's classes."""

    allow: Annotated[tuple[str, ...], "PACKAGE", REPEATED] = ()
    """Let models and recipes import classes from this package."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(AllowOptions):
    """Options of verbs that load a model."""

    device: Name = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """Options of verbs that load a run with its data."""

    data_source: DataPath | None = None
    """Where the run's data are now."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(RunOptions):
    """Options of verbs that encode observations and write a file."""

    run: RunPath
    """Run directory; with PATH also a saved model or a hub id."""
    path: Annotated[str | None, "PATH", POSITIONAL] = None
    """Other data than the run's: an image, a folder, a table, an array: anything that data.source can be."""
    split: Split | None = None
    """Part of the data: test (default), validation or train."""
    input: DataPath | None = None
    """The same as PATH."""
    out: FilePath | None = None
    """Output file, .png or .npz (default: in the run directory)."""
    seed: Seed = 0
    """Seed of all random choices."""


Options = TypeVar("Options")


class Parser(argparse.ArgumentParser, Generic[Options]):
    """Arguments of a verb: long options in full only, and errors that name a fix.

    Args:
        verb: its name.
        options: dataclass of its options; its docstring is the description.
        examples: command lines, one per line.
        usage: the arguments after the verb; made from the positional options by default.
        groups: titles of nested dataclasses, by field.
        flags: flags of fields that are not ``--field-name``.
        hidden: fields of nested dataclasses that are not options.
        overrides: whether ``--section.option VALUE`` overrides a recipe; also the names without a section that do.
        help_option: whether ``--help`` prints the help at once, instead of being a field.
    """

    def __init__(
        self,
        verb: str,
        options: type[Options],
        examples: str,
        *,
        usage: str | None = None,
        groups: dict[str, str] | None = None,
        flags: dict[str, str] | None = None,
        hidden: Sequence[str] = (),
        overrides: Sequence[str] | None = None,
        help_option: bool = True,
    ) -> None:
        super().__init__(
            prog=f"advae {verb}",
            description=textwrap.fill(" ".join((options.__doc__ or "").split()), HELP_WIDTH),
            epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  "),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=24, width=HELP_WIDTH
            ),
            allow_abbrev=False,
            add_help=help_option,
        )
        self.options, self.groups, self.hidden = options, groups or {}, hidden
        self.flags = {"data_source": "--data.source"} | (flags or {})
        self.overrides, self.recipe_options = overrides, list[str]()
        self._add_fields(self, options)
        positional = " ".join(action.metavar for action in self._actions if not action.option_strings)  # type: ignore[misc]
        self.usage = f"advae {verb} {usage or f'{positional} [option …]'.strip()}"

    def parse(self, argv: Sequence[str], command: str = "") -> Options:
        """Return the options, with overrides of a recipe in ``overrides``.

        Raises:
            ConfigError: an option is unknown (with the nearest one), or a value is missing or invalid.
        """
        overrides, rest = self._split_overrides(list(argv))
        for token in rest[: rest.index("--")] if "--" in rest else rest:
            if re.match(r"--|-[A-Za-z]", token):
                self._check_known(token.partition("=")[0] if token.startswith("--") else token[:2])
        values, extra = self.parse_known_intermixed_args(rest)
        if extra:
            raise ConfigError(
                f"{self.prog}: unexpected argument {extra[0]!r}.", fix=f"see {self.prog} --help"
            )
        given = vars(values) | ({"overrides": overrides} if self.overrides is not None else {})
        return self._build(self.options, given | {"command": command, "given": frozenset(vars(values))})

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        missing = message.removeprefix("the following arguments are required: ")
        what = f"{missing} is missing." if missing != message else f"{message.removeprefix('argument ')}."
        raise ConfigError(what, expected=self.usage, fix=f"see {self.prog} --help")

    def _build(self, cls: type[Options], values: dict[str, Any]) -> Options:
        hints = get_type_hints(cls)
        nested = {f.name: hints[f.name] for f in _fields(cls) if is_dataclass(hints[f.name])}
        own = {f.name: _frozen(values[f.name]) for f in _fields(cls) if f.name in values}
        return cls(**own, **{name: self._build(hint, values) for name, hint in nested.items()})

    def _add_fields(self, group: Any, cls: type) -> None:
        hints, docs = get_type_hints(cls, include_extras=True), _field_docs(cls)
        nested = []
        for field in _fields(cls):
            hint, marks = _unwrap(hints[field.name])
            if HIDDEN in marks or field.name in self.hidden:
                continue
            if is_dataclass(hint):
                nested.append((self.groups.get(field.name), hint))
            else:
                self._add_field(group, field, hint, marks, docs.get(field.name, ""))
        for title, hint in nested:
            self._add_fields(self.add_argument_group(title) if title else group, hint)  # type: ignore[arg-type]

    def _add_field(self, group: Any, field: Field[Any], hint: Any, marks: Sequence[Any], doc: str) -> None:
        default = None if field.default is MISSING else field.default
        is_shown = (
            default is not None and default is not False and default not in ((), "") and "default" not in doc
        )
        text = doc.removesuffix(".") + (f" (default: {_as_text(default)})" if is_shown else "")
        more: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        metavar = next((m for m in marks if isinstance(m, str) and m.isupper()), None)
        if POSITIONAL in marks:
            is_required, is_list = field.default is MISSING, get_origin(hint) is tuple
            nargs = ("+" if is_required else "*") if is_list else (None if is_required else "?")
            kind = _text if is_list else _converter(hint, marks)
            group.add_argument(field.name, metavar=metavar, nargs=nargs, type=kind, **more)
            return
        name = field.name.replace("_", "-")
        flags = self.flags.get(field.name, f"-{name}" if len(name) == 1 else f"--{name}").split()
        if hint is bool:
            group.add_argument(*flags, dest=field.name, action="store_true", **more)
        elif REPEATED in marks:
            group.add_argument(*flags, dest=field.name, metavar=metavar, action="append", type=_text, **more)
        else:
            metavar = metavar or _metavar(hint)
            group.add_argument(*flags, dest=field.name, metavar=metavar, type=_converter(hint, marks), **more)

    def _split_overrides(self, argv: list[str]) -> tuple[dict[str, str], list[str]]:
        overrides: dict[str, str] = {}
        rest: list[str] = []
        tokens = iter(argv)
        for token in tokens:
            name, equals, value = token.partition("=")
            if self.overrides is None or not self._is_override(name):
                rest.append(token)
                continue
            value = value if equals else next(tokens, "--")
            if not equals and value.startswith("--"):
                raise ConfigError(f"{name} needs a value.", expected=f"{name} VALUE, or {name}=VALUE")
            overrides[name.removeprefix("--")] = value
        return overrides, rest

    def _is_override(self, name: str) -> bool:
        is_dotted = re.fullmatch(r"--\w[\w-]*(\.\w+)+", name) is not None
        return (is_dotted and name not in self._option_string_actions) or name[2:] in (self.overrides or ())

    def _check_known(self, name: str) -> None:
        known = list(self._option_string_actions)
        if name != "--" and name not in known:
            listing = f"{self.prog} {'RECIPE ' if self.recipe_options else ''}--help"
            fix = nearest(name, [*known, *self.recipe_options], listing)
            raise ConfigError(f"{self.prog} has no option {name!r}.", fix=fix)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _fields(cls: Any) -> list[Field[Any]]:
    """The fields of a dataclass, those of its bases last."""
    by_name = {field.name: field for field in fields(cls)}
    order = [name for base in cls.__mro__ for name in inspect.get_annotations(base) if name in by_name]
    return [by_name[name] for name in dict.fromkeys(order)]


def _field_docs(cls: type) -> dict[str, str]:
    """The strings below the fields of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for statement, following in pairwise(body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """A type without None and without its marks, and the marks."""
    marks: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            marks += more
        elif get_origin(hint) in (Union, UnionType):
            (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
        else:
            return hint, marks


def _converter(hint: Any, marks: Sequence[Any]) -> Callable[[str], Any]:
    if get_origin(hint) is Literal:
        return one_of(*get_args(hint))
    if get_origin(hint) is tuple:
        item = _converter(*_unwrap(get_args(hint)[0]))
        return lambda text: tuple(item(word.strip()) for word in text.split(",") if word.strip())
    if hint in (int, float):
        limits = next((mark for mark in marks if isinstance(mark, Range)), None)
        return lambda text: _number(text, hint, limits)
    return _text


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _number(text: str, kind: type[int] | type[float], limits: Range | None) -> float:
    try:
        value = kind(text)
    except ValueError:
        name = "an integer" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {name}") from None
    if limits is not None and not limits.low <= value <= limits.high:
        side = f"less than {limits.low:.0f}" if value < limits.low else f"more than {limits.high:.0f}"
        raise argparse.ArgumentTypeError(f"{text} is {side}")
    return value


def one_of(*names: str) -> Callable[[str], str]:
    """Return a converter that accepts these names only."""

    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"unknown name {text!r}; {nearest(text, names)}")
        return text

    return convert


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "NAME"
    if get_origin(hint) is tuple:
        return "LIST"
    return {int: "N", float: "X"}.get(hint, "NAME")


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
