"""Reports as single HTML files, and the metrics of `skavid evaluate`."""

from skavid.report.page import *
from skavid.report.page import __all__ as __all__
