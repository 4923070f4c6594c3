"""What inference servers and other runtimes are given is what the detector computes."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skavid import AVIDDetector
from skavid.cli import main
from skavid.export import verify_onnx, write_triton

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

NUMPY_TYPES = {
    "TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)", "TYPE_BOOL": "tensor(bool)",
}  # fmt: skip


def pictures(n, size=(12, 16)):
    return np.random.default_rng(0).integers(0, 256, (n, *size), dtype=np.uint8)


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def pooled():
    detector = AVIDDetector(max_epochs=1, random_state=0)
    return detector.set_params(inpainter__pooling="everywhere").fit(pictures(12))


@pytest.fixture(scope="module")
def fitted():
    return AVIDDetector(max_epochs=1, random_state=0).fit(pictures(12))


def parsed(text):
    """Read the tensors of a config.pbtxt: kind, name, type, dims, and whether reshaped."""
    pattern = (
        r"(input|output) \{\n  name: \"(\w+)\"\n  data_type: (\w+)\n  dims: \[ ([-0-9, ]+) \]\n"
        r"(  reshape \{ shape: \[ \] \}\n)?\}\n"
    )
    found = re.findall(pattern, text)
    assert len(found) == text.count("name:")
    return [
        (kind, name, dtype, [int(length) for length in dims.split(", ")], bool(reshaped))
        for kind, name, dtype, dims, reshaped in found
    ]


@pytest.mark.parametrize("which", ["fitted", "pooled"])
def test_names_types_and_shapes_of_the_configuration_are_those_of_the_graph(
    which, tmp_path, request
):
    write_triton(request.getfixturevalue(which), tmp_path / "fabric")
    session = session_of(tmp_path / "fabric" / "1" / "model.onnx")
    told = parsed((tmp_path / "fabric" / "config.pbtxt").read_text())
    there = [("input", one) for one in session.get_inputs()]
    there += [("output", one) for one in session.get_outputs()]
    assert [(kind, name) for kind, name, *_ in told] == [(kind, one.name) for kind, one in there]
    for (_, _, dtype, dims, reshaped), (_, one) in zip(told, there, strict=True):
        assert NUMPY_TYPES[dtype] == one.type
        batch, *lengths = one.shape
        assert isinstance(batch, str)  # the server chooses how many images there are
        lengths = [length if isinstance(length, int) else -1 for length in lengths]
        assert dims == ([1] if reshaped else lengths)
        assert reshaped == (lengths == [])
    assert told[0][3] == ([-1, -1, 1] if which == "pooled" else [12, 16, 1])


def test_requests_that_the_server_joins_are_answered_as_each_one_alone(fitted, tmp_path):
    write_triton(fitted, tmp_path / "fabric", max_batch_size=8)
    session = session_of(tmp_path / "fabric" / "1" / "model.onnx")
    images = pictures(5)[..., None]
    (together,) = session.run(["score"], {"images": images})
    alone = [session.run(["score"], {"images": images[i : i + 1]})[0][0] for i in range(5)]
    assert_allclose(together, alone, atol=1e-4)
    assert_allclose(together, fitted.score_samples(images), atol=1e-4)


def test_the_configuration_follows_the_published_schema(fitted, tmp_path):
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed"
    )
    from google.protobuf import text_format

    write_triton(fitted, tmp_path / "fabric", max_batch_size=8)
    text = (tmp_path / "fabric" / "config.pbtxt").read_text()
    config = text_format.Parse(text, schema.ModelConfig())
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 8)
    assert config.HasField("dynamic_batching")
    assert [list(one.dims) for one in config.input] == [[12, 16, 1]]
    assert config.output[0].HasField("reshape")
    assert list(config.output[0].reshape.shape) == []


def test_a_model_that_cannot_be_written_leaves_no_folder(fitted, tmp_path):
    with pytest.raises(ValueError, match=r"max_batch_size must be at least 1\. Got 0\."):
        write_triton(fitted, tmp_path / "fabric", max_batch_size=0)
    with pytest.raises(ValueError, match="dtype must be"):
        write_triton(fitted, tmp_path / "fabric", dtype="int8")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_triton(fitted, tmp_path / "no" / "fabric")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_the_folder(fitted, tmp_path, capsys, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    fitted.save("model.skavid")
    assert main(["export", "model.skavid", "fabric", "--triton"]) == 0
    assert "fabric takes uint8 images of shape (n, 12, 16, 1)" in capsys.readouterr().out
    assert (tmp_path / "fabric" / "config.pbtxt").is_file()
    assert verify_onnx(fitted, "fabric/1/model.onnx", pictures(3)).score < 1e-4


def test_the_graph_agrees_with_the_detector_in_openvino(fitted, pooled, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    for detector in (fitted, pooled):
        write_triton(detector, tmp_path / "fabric")
        path = tmp_path / "fabric" / "1" / "model.onnx"
        assert verify_onnx(detector, path, pictures(3), runtime="openvino").score < 1e-4


class Core:
    """OpenVINO as far as it is used: a compiled model returns results that are read by name."""

    added = 0.0

    def compile_model(self, path, device):
        assert device == "CPU"
        session = session_of(path)
        names = [one.name for one in session.get_outputs()]

        def compiled(inputs):
            results = dict(zip(names, session.run(None, inputs), strict=True))
            return results | {"score": results["score"] + self.added}

        return compiled


def test_another_runtime_is_compared_by_its_own_results(fitted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(Core=Core))
    write_triton(fitted, tmp_path / "fabric")
    path = tmp_path / "fabric" / "1" / "model.onnx"
    assert verify_onnx(fitted, path, pictures(3), runtime="openvino").mask == 0
    monkeypatch.setattr(Core, "added", 1.0)
    with pytest.raises(AssertionError, match="score of image 0"):
        verify_onnx(fitted, path, pictures(3), runtime="openvino")
    verify_onnx(fitted, path, pictures(3))


def test_unknown_and_missing_runtimes_are_refused(fitted, tmp_path, monkeypatch):
    write_triton(fitted, tmp_path / "fabric")
    path = tmp_path / "fabric" / "1" / "model.onnx"
    with pytest.raises(ValueError, match="runtime must be 'onnxruntime' or 'openvino'"):
        verify_onnx(fitted, path, pictures(3), runtime="tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="needs openvino; pip install openvino"):
        verify_onnx(fitted, path, pictures(3), runtime="openvino")
