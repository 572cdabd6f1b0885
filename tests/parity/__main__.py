"""`make parity`: see `tests/parity/driver.py`."""

import sys

from tests.parity.driver import main

sys.exit(main())
