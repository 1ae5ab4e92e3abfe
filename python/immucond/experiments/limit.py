"""Where `immucond.limit` stood before it was a package of its own."""

from ..limit import *  # noqa: F403
from ..limit import __all__ as __all__
