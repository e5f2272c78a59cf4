"""`python -m lamina`: the command, for processes that are started without its script."""

from lamina.cli import main

main()
