"""`python -m invent_exporter`: the same program as the installed command."""

import sys

from invent_exporter.cli import main

if __name__ == "__main__":
    sys.exit(main())
