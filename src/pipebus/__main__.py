"""`python -m pipebus` is `pipebus`."""

import sys

from pipebus.cli import main

sys.exit(main())
