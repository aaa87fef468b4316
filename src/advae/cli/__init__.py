"""The command ``advae``: verbs, errors and exit codes.

A verb is a module ``NAME_command.py`` of this package with ``SUMMARY``, ``parser()`` and ``run(options)``.

Exit codes: 0 success, 1 failure (a check of the doctor, non-finite numbers, an unexpected error), 2 invalid input or a
file that cannot be read or written, 129, 130 or 143 stopped by a signal, 141 the reader of the output has closed it.
"""

from __future__ import annotations

import pkgutil
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from advae import __version__
from advae.cli.standard_streams import STANDARD_OUTPUT, guard_standard_streams
from advae.errors import AdvaeError, ConfigError, first_line, nearest

VERBS = tuple(
    module.name.removesuffix("_command")
    for module in pkgutil.iter_modules(__path__)
    if module.name.endswith("_command")
)

EXAMPLES = """\
examples:
  advae recipes
  advae train asvae-digits
  advae train vae-digits --train.steps 2000 --seed 1 --out runs/trial
  advae sample runs/trial -n 100
  advae compare runs/trial runs/other

advae VERB --help describes a verb, advae train RECIPE --help every option of a recipe."""

OUT_OF_MEMORY_MESSAGES = ("can't allocate memory", "out of memory")  # PyTorch's
BROKEN_PIPE_EXIT_CODE = 141  # the shell's code for a program that SIGPIPE stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. No exception leaves it, and only ``--debug`` shows a traceback.

    Args:
        argv: the arguments; by default those of the process, whose standard streams are then guarded.
    """
    if argv is None:
        guard_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        return _report(error)


def _report(error: BaseException) -> int:
    """Print an error and return the exit code."""
    if isinstance(error, BrokenPipeError) and error.filename == STANDARD_OUTPUT:
        return BROKEN_PIPE_EXIT_CODE
    is_memory = isinstance(error, MemoryError | RuntimeError) and (
        isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY_MESSAGES)
    )
    message, code = str(error), 2
    if isinstance(error, AdvaeError):
        code = error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        message, code = message or "Interrupted.", getattr(error, "exit_code", 130)
    elif isinstance(error, OSError) and error.strerror:
        message = str(ConfigError(f"{error.strerror}.", given=error.filename))
    elif is_memory:
        fix = "use fewer or smaller images, or a smaller batch or network"
        message = str(AdvaeError("Out of memory.", given=first_line(error), fix=fix))
    else:
        fix = "--debug shows where it comes from; please report it"
        message, code = str(AdvaeError("Unexpected error.", given=first_line(error), fix=fix)), 1
    print(f"advae: {message}", file=sys.stderr)
    return code


def dispatch(argv: list[str]) -> int:
    """Run the verb that the arguments name.

    Raises:
        AdvaeError: the arguments are invalid, or the verb failed.
    """
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"advae {__version__}")
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        if verb.startswith("-"):
            raise ConfigError(f"Unknown option {verb!r} before the verb.", expected="advae VERB [option …]")
        raise ConfigError(f"Unknown verb {verb!r}.", fix=nearest(verb, VERBS))
    module = import_module(f"advae.cli.{verb}_command")
    try:
        options = module.parser().parse(rest, shlex.join(["advae", *argv]))
    except SystemExit as stop:  # argparse has printed the help
        return int(stop.code or 0)
    return int(module.run(options))


def overview() -> str:
    """Return the help of the command itself."""
    summaries = {verb: import_module(f"advae.cli.{verb}_command").SUMMARY for verb in VERBS}
    verbs = "\n".join(f"  {verb:<13}{summary}" for verb, summary in summaries.items())
    return (
        "usage: advae VERB …\n\n"
        "Train, evaluate and explore adversarial variational autoencoders.\n\n"
        f"verbs:\n{verbs}\n\n{EXAMPLES}"
    )
