"""A fitted detector as one ONNX graph."""

from skavid.export.graph import (
    to_onnx,
    verify_onnx,
)

__all__ = [
    "to_onnx",
    "verify_onnx",
]
