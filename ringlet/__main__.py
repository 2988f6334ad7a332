"""`python -m ringlet` is the command `ringlet`."""

import sys

from ringlet.cli.main import main

sys.exit(main())
