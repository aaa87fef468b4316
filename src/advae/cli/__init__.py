"""The command: one file a verb, and here what is common to all: which verb, which errors, which exit code.

Exit codes: 0 done, 1 failed (a check of the doctor, numbers that are not finite), 2 bad input,
130 or 143 stopped by a signal.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from advae import __version__
from advae.errors import AdvaeError, ConfigError, nearest

VERBS = {
    "recipes": "list the recipes that ship",
    "train": "train a recipe, evaluate it and write its report",
    "evaluate": "judge a run: reconstruction, bounds, each with its kind and protocol",
    "sample": "draw observations from a model",
    "reconstruct": "encode observations and decode them again",
    "interpolate": "decode the paths between the codes of pairs of observations",
    "encode": "write the codes of observations to an .npz file",
    "compare": "put several runs side by side",
    "report": "write a run's report anew",
    "reproduce": "a paper's table: train and judge its rows, set them beside what was published",
    "infer": "fit a posterior to a log joint density of your own, and check it",
    "doctor": "check what is installed, what device there is, and that it works",
}

EXAMPLES = """\
examples:
  advae recipes
  advae train asvae-digits
  advae train vae-digits --train.steps 2000 --seed 1 --out runs/trial
  advae sample runs/trial -n 100
  advae compare runs/trial runs/other

advae VERB --help tells more of a verb, advae train RECIPE --help every option of a recipe."""

NO_MEMORY = ("can't allocate memory", "out of memory")  # how torch says so
BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process by default.

    Returns:
        The exit code.
    """
    if argv is None:  # a process of its own: a terminal that cannot show ± or ✓ shows ? instead
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except AdvaeError as error:
        return _failed(str(error), error.exit_code)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; to nowhere, so that it does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as stop:
        return _failed(str(stop) or "interrupted", getattr(stop, "exit_code", 130))
    except OSError as error:
        if error.filename is None:
            raise
        return _failed(str(ConfigError(str(error.strerror).lower(), given=error.filename)), 2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        first = (str(error).splitlines() or [""])[0]
        remedy = "ask for less at a time: fewer or smaller images, a smaller batch or network"
        return _failed(str(AdvaeError("there is not enough memory", given=first, remedy=remedy)), 2)


def dispatch(argv: list[str]) -> int:
    """Find the verb and run it.

    Raises:
        AdvaeError: what the user should know.
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
            raise ConfigError(
                f"there is no option {verb!r} before the verb", expected="advae VERB [option …]"
            )
        raise ConfigError(f"there is no verb {verb!r}", remedy=nearest(verb, VERBS))
    module = import_module(f"advae.cli.{verb}_command")
    try:
        args = module.parser().parse(rest)
        args.command = shlex.join(["advae", *argv])
    except SystemExit as done:  # argparse has printed the help
        return int(done.code or 0)
    return int(module.run(args))


def overview() -> str:
    """The help of the command itself."""
    verbs = "\n".join(f"  {verb:<13}{summary}" for verb, summary in VERBS.items())
    return (
        "usage: advae VERB …\n\n"
        "Adversarial variational autoencoders: trained, judged honestly and explored.\n\n"
        f"verbs:\n{verbs}\n\n{EXAMPLES}"
    )


def _failed(message: str, code: int) -> int:
    """Say what went wrong; inside an except block. ``ADVAE_DEBUG=1`` shows where."""
    if os.environ.get("ADVAE_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    print(f"advae: {message}", file=sys.stderr)
    return code
