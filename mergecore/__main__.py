"""`python -m mergecore` is the command line."""

from mergecore.cli import main

main()
