"""The limit of immunization for two data files of any size: ``immucond limit``."""

from ._report import as_json, figure, print_tables
from ._rows import Rows, open_rows
from ._run import Result, Settings, Task, run

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
