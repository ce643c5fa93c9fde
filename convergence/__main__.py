"""``python -m convergence`` is the ``convergence`` command."""

import sys

from convergence.registry import put_toolkit_first

if __name__ == "__main__":
    put_toolkit_first()  # files of the working folder may hide click

    from convergence.cli import main

    sys.exit(main())
