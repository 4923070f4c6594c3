"""Folders for a model hub: they hold the detector, and a card that the hub can read."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError

from skavid import AVIDDetector
from skavid.hub import from_pretrained, save_pretrained

pytest.importorskip("safetensors")


def pictures(n):
    return np.random.default_rng(0).integers(0, 256, (n, 12, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def fitted():
    return AVIDDetector(max_epochs=1, random_state=0).fit(pictures(12))


def test_a_detector_comes_back_with_equal_scores(fitted, tmp_path):
    save_pretrained(fitted, tmp_path / "model")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["README.md", "model.safetensors"]
    again = from_pretrained(tmp_path / "model")
    assert_array_equal(again.score_samples(pictures(5)), fitted.score_samples(pictures(5)))


def test_a_compact_folder_is_smaller_and_nearly_the_same(fitted, tmp_path):
    sizes = []
    for compact in (False, True):
        folder = tmp_path / str(compact)
        save_pretrained(fitted, folder, compact=compact)
        sizes.append((folder / "model.safetensors").stat().st_size)
    fitted.save(tmp_path / "file", compact=True)
    assert sizes[1] == (tmp_path / "file").stat().st_size < sizes[0]
    again = from_pretrained(tmp_path / "True")
    spread = fitted.score_samples(pictures(12)).std()
    change = abs(again.score_samples(pictures(12)) - fitted.score_samples(pictures(12)))
    assert change.max() < spread


def test_the_hub_can_read_the_card(fitted, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    save_pretrained(fitted, tmp_path, license="cc-by-4.0")
    card = hub.ModelCard.load(tmp_path / "README.md", ignore_metadata_errors=False)
    assert card.data.to_dict() == {
        "license": "cc-by-4.0",
        "library_name": "skavid",
        "tags": ["anomaly-detection", "novelty-detection"],
    }
    for told in ("12 normal images", "12 x 16 x 1", f"alpha {fitted.alpha_:.4g}", "0 to 255"):
        assert told in card.text
    save_pretrained(fitted, tmp_path / "open")
    assert hub.ModelCard.load(tmp_path / "open" / "README.md").data.license is None


def test_the_text_of_the_user_is_kept_and_the_model_is_replaced(fitted, tmp_path):
    (tmp_path / "README.md").write_text("Ours.")
    (tmp_path / "model.safetensors").write_text("old")
    save_pretrained(fitted, tmp_path)
    assert (tmp_path / "README.md").read_text() == "Ours."
    assert from_pretrained(tmp_path).alpha_ == fitted.alpha_


def test_what_cannot_be_saved_leaves_no_folder(fitted, tmp_path):
    with pytest.raises(NotFittedError):
        save_pretrained(AVIDDetector(), tmp_path / "model")
    odd = fitted.with_thresholds(0.5, 0.5)
    odd.extra_ = {"what": object()}
    with pytest.raises(ValueError, match="which a file without code cannot hold"):
        save_pretrained(odd, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model", "./model", "/no/model", "a/b/c", "../model", "a/"])
def test_a_folder_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*owner/model"):
        from_pretrained(name)


def test_a_name_of_the_hub_is_downloaded_once_and_read(fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted.save("cached.safetensors")
    asked = []

    def download(*asked_for, revision):
        asked.append((*asked_for, revision))
        return "cached.safetensors"

    stand_in = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    assert from_pretrained("somebody/camera", revision="abc").alpha_ == fitted.alpha_
    assert asked == [("somebody/camera", "model.safetensors", "abc")]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        from_pretrained("somebody/camera")
