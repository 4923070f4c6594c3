"""A page to hand on, and how well a model does on labelled data."""

from skavid.report.page import (
    write_report,
)

__all__ = [
    "write_report",
]
