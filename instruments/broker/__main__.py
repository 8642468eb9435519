"""`python -m instruments.broker`."""

import sys

from instruments.broker.process import main

sys.exit(main())
