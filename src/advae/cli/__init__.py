"""The command ``advae``: verbs, errors and exit codes.

A verb is a module ``NAME_command.py`` of this package with ``SUMMARY``, ``parser()`` and ``run(options)``.

Exit codes: 0 success, 1 failure (a check of the doctor, non-finite numbers), 2 invalid input, 130 or 143 stopped by a
signal.
"""

from __future__ import annotations

import os
import pkgutil
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from advae import __version__
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
    """Run the command and return its exit code.

    Args:
        argv: the arguments; by default those of the process.
    """
    if argv is None:  # a terminal that cannot show ± or ✓ shows ? instead
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except AdvaeError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # Python flushes stdout again at exit: redirect it, so that this does not raise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_EXIT_CODE
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "Interrupted.", getattr(stop, "exit_code", 130))
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(str(ConfigError(f"{error.strerror}.", given=error.filename)), 2)
    except (MemoryError, RuntimeError) as error:
        is_memory = any(text in str(error) for text in OUT_OF_MEMORY_MESSAGES)
        if not (isinstance(error, MemoryError) or is_memory):
            raise
        fix = "use fewer or smaller images, or a smaller batch or network"
        return _fail(str(AdvaeError("Out of memory.", given=first_line(error), fix=fix)), 2)


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


def _fail(message: str, code: int) -> int:
    """Print an error; with ``ADVAE_DEBUG=1`` also the traceback of the exception being handled."""
    if os.environ.get("ADVAE_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    print(f"advae: {message}", file=sys.stderr)
    return code
