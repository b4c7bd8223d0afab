"""`python -m fovea` is the `fovea` command."""

import sys

from fovea.cli import main

sys.exit(main())
