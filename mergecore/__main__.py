"""Entry point for `python -m mergecore`."""

from mergecore.cli import main

main()
