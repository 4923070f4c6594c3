"""A fitted detector as one ONNX graph."""

from skavid.export.graph import *
from skavid.export.graph import __all__ as __all__
