"""The command line: one verb a file."""

from __future__ import annotations


def main() -> int:
    """Run `flowbridge` with the arguments of this process; returns the exit code."""
    import sys

    from flowbridge.cli.app import run_app

    return run_app(sys.argv[1:])
