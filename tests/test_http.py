"""The server of the how-to guide answers as the detector does."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
import pytest

from skavid import AVIDDetector

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install fastapi")
pytest.importorskip("python_multipart", reason="python-multipart is not installed")
pytest.importorskip("safetensors")
Image = pytest.importorskip("PIL.Image")
APP = Path(__file__).resolve().parents[1] / "docs" / "how_to" / "serve_app.py"


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"file": ("picture.png", buffer.getvalue(), "image/png")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the test client
def test_pictures_are_answered_with_scores_and_boxes(tmp_path, monkeypatch):
    testclient = pytest.importorskip("fastapi.testclient", reason="httpx is not installed")
    images = np.random.default_rng(0).integers(90, 110, (30, 16, 20), dtype=np.uint8)
    detector = AVIDDetector(max_epochs=1, random_state=0).fit(images)
    detector.save(tmp_path / "detector.skavid")
    odd = images[0].copy()
    odd[4:9, 6:12] = 250
    monkeypatch.chdir(tmp_path)
    client = testclient.TestClient(runpy.run_path(str(APP))["app"])
    for image in (images[1], odd):
        answer = client.post("/score", files=png(image))
        assert answer.status_code == 200
        told = answer.json()
        assert told["score"] == detector.score_samples(image[None])[0]
        assert told["p_value"] == detector.p_values(image[None])[0]
        assert told["irregular"] == (detector.predict(image[None])[0] == -1)
        assert told["boxes"] == [list(found.box) for found in detector.find(image[None])[0]]
    assert told["irregular"]
    refused = client.post("/score", files={"file": ("a.png", b"no picture")})
    assert refused.status_code == 422
    assert "This is no picture" in refused.json()["detail"]
