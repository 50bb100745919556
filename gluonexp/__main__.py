"""``python -m gluonexp``: the ``gluonexp`` command."""

from gluonexp.cli import main

main(prog_name="gluonexp")
