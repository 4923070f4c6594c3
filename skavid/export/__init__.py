"""A fitted detector as one ONNX graph, and as a model of an inference server."""

from skavid.export.graph import to_onnx, verify_onnx
from skavid.export.triton import write_triton

__all__ = ["to_onnx", "verify_onnx", "write_triton"]
