"""``python -m convergence`` is the ``convergence`` command."""

import sys

from convergence.cli import main

sys.exit(main())
