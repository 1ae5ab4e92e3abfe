"""``python -m immucond`` is the ``immucond`` command."""

import sys

from ._cli import main

sys.exit(main())
