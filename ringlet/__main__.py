"""`python -m ringlet` is the command `ringlet`."""

import sys

from ringlet.cli.main import command

sys.exit(command())
