"""Optional dependencies, imported where they are used."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a failed import into one that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is not installed: pip install "immucond[{name}]", or in a clone '
            f'pip install ".[{name}]"',
            name=error.name,
        ) from error
