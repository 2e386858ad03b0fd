"""`python3 -m edgekit_runtime`."""

import sys

from edgekit_runtime.cli import main

sys.exit(main())
