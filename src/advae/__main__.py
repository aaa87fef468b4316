"""``python -m advae``: the command."""

import sys

from advae.cli import main

if __name__ == "__main__":
    sys.exit(main())
