"""``python -m convergence`` is the ``convergence`` command."""

import sys

from convergence.registry import put_toolkit_first

put_toolkit_first()

from convergence.cli import main  # noqa: E402 (files of the working folder may hide click)

sys.exit(main())
