"""``python -m clusterjob`` is the command ``clusterjob``."""

from clusterjob.cli.main import main

main()
