"""`python -m quantui`: the command line."""

from quantui.cli import main

main()
