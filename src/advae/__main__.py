"""``python -m advae``: the command."""

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # which -m added: a module in the current directory is imported only if --allow names it

from advae.cli import main

if __name__ == "__main__":
    sys.exit(main())
