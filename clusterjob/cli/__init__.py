"""The command line: what a person touches at a terminal."""

from clusterjob.cli.entry import main

__all__ = ["main"]
