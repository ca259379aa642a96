"""`python -m flowbridge` is the command `flowbridge`."""

from __future__ import annotations

import sys

from flowbridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
