"""``python -m clusterjob`` is the command ``clusterjob``."""

from clusterjob.cli import main

main()
