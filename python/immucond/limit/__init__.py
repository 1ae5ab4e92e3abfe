"""The limit of immunization for two data files of any size: ``immucond limit``."""

from ._report import Result, Settings, Task, as_json, figure, print_tables, run
from ._rows import Rows, open_rows

__all__ = [
    "Result",
    "Rows",
    "Settings",
    "Task",
    "as_json",
    "figure",
    "open_rows",
    "print_tables",
    "run",
]
