"""The command line: ``headrace``.  Nothing heavy is imported before it is needed."""

from headrace.cli.entry import main

__all__ = ["main"]
