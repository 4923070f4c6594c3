"""A page to hand on, and how well a model does on labelled data."""

from skavid.report.page import *
from skavid.report.page import __all__ as __all__
