"""A detector as a folder for the Hugging Face Hub: weights without pickle, and a model card."""

from __future__ import annotations

import os
from pathlib import Path

from sklearn.utils.validation import check_is_fitted
from torch import nn

from skavid import __version__
from skavid.components import names_of_maps
from skavid.estimator import AVIDDetector
from skavid.wording import counted
from skavid.writing import check_parent, naming, replace

__all__ = ["from_pretrained", "save_pretrained"]

WEIGHTS = "model.safetensors"
CARD = "README.md"


def save_pretrained(
    detector: AVIDDetector,
    folder: str | os.PathLike[str],
    *,
    license: str | None = None,
    compact: bool = False,
) -> None:
    """Write a fitted detector and its model card to a folder; nothing is uploaded.

    Needs the extra ``save``. Read more in the :ref:`User Guide <user_guide_hub>`.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted.
    folder : str or Path
        Made if it is missing. It gets ``model.safetensors``, from `AVIDDetector.save`, which
        replaces an older one, and ``README.md``, unless there is one: your own text is kept.
    license : str, default=None
        The identifier of the licence in the card, such as "cc-by-4.0". None leaves it open.
    compact : bool, default=False
        As in `AVIDDetector.save`: a file about half as large, whose scores change a little.

    Raises
    ------
    ValueError
        If the detector cannot be saved, as in `AVIDDetector.save`.
    OSError
        If a file cannot be written.

    See Also
    --------
    from_pretrained : Reads such a folder.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.hub import from_pretrained, save_pretrained
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 16))
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> folder = tempfile.mkdtemp()
    >>> save_pretrained(detector, folder, license="cc-by-4.0")
    >>> bool((from_pretrained(folder).predict(X) == detector.predict(X)).all())
    True
    """
    check_is_fitted(detector)
    folder = Path(folder)
    check_parent(folder)
    card = _card(detector, license)
    is_new = not folder.exists()
    with naming(folder):
        folder.mkdir(exist_ok=True)
    try:
        detector.save(folder / WEIGHTS, compact=compact)
    except BaseException:
        if is_new:
            folder.rmdir()
        raise
    if not (folder / CARD).exists():
        replace(folder / CARD, card.encode())


def from_pretrained(
    name: str | os.PathLike[str], *, revision: str | None = None, features: nn.Module | None = None
) -> AVIDDetector:
    """Read a detector from a folder, or from the Hugging Face Hub.

    Parameters
    ----------
    name : str or Path
        A folder that `save_pretrained` wrote. If there is none of this name, and it has the form
        ``owner/model``, ``model.safetensors`` is downloaded with huggingface_hub, which must be
        installed, into its cache.
    revision : str, default=None
        Branch, tag or commit on the hub; a commit makes sure that the file stays the same.
    features : Module, default=None
        As in `AVIDDetector.load`.

    Returns
    -------
    detector : AVIDDetector
        Fitted. No code from the file is run.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, and the name is none of the hub.
    ImportError
        If huggingface_hub is needed and missing.
    ValueError
        If the file is damaged or not from skavid, as in `AVIDDetector.load`.

    Examples
    --------
    See `save_pretrained`.
    """
    folder = Path(name)
    if folder.is_dir():
        return AVIDDetector.load(folder / WEIGHTS, features=features)
    owner, *model = os.fspath(name).split("/")
    if len(model) != 1 or not model[0] or owner in ("", ".", "..", "~"):
        raise FileNotFoundError(
            f"There is no folder {name}; give one that save_pretrained wrote, or the name of a "
            "model on the hub, as owner/model."
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"There is no folder {name}, and to download a model from the hub from_pretrained "
            "needs huggingface_hub; pip install huggingface_hub."
        ) from error
    path = hf_hub_download(f"{owner}/{model[0]}", WEIGHTS, revision=revision)
    return AVIDDetector.load(path, features=features)


def _card(detector: AVIDDetector, license: str | None) -> str:
    """Write what is known of a model, and ask for what is not."""
    front = ["library_name: skavid", "tags:", "- anomaly-detection", "- novelty-detection"]
    if license is not None:
        front.insert(0, f"license: {license}")
    trained_on = getattr(detector, "_trained_on", {})
    low, high = detector.value_range_
    facts = [
        "Images: " + " x ".join(map(str, detector.image_shape_)) + " (height, width, channels), "
        f"values from {low:g} to {high:g}",
        f"Features: `{names_of_maps(detector)}`",
        f"Thresholds: alpha {detector.alpha_:.4g}, zeta {detector.zeta_:.4g}, "
        f'`fusion="{detector.fusion}"`',
    ]
    if "n_images" in trained_on:
        facts.insert(0, f"Trained on {counted(trained_on['n_images'], 'normal image')}")
    if (rests_on := detector.calibration_) is not None:
        facts.append(
            f"Calibrated for a share of {detector.target_fpr:g} of false alarms among normal "
            f"images, on {counted(rests_on['n_images'], 'image')}"
        )
    return "\n".join(
        [
            "---", *front, "---", "",
            "# Anomaly detection in images with skavid", "",
            "This model learnt from normal images alone. It scores images, and marks the pixels "
            "that are irregular. It is AVID (Sabokrou et al., ACCV 2018) as implemented in "
            f"skavid {__version__}.", "",
            "```python",
            "from skavid.hub import from_pretrained", "",
            'detector = from_pretrained("path/to/this/folder")',
            "detector.predict(X)  # -1 for irregular images, 1 for normal ones",
            "detector.segment(X)  # the irregular pixels",
            "```", "",
            "## Facts", "", *(f"- {fact}." for fact in facts), "",
            "## Limits", "",
            "The model needs images like those of its training: the same camera, scale and "
            "lighting. Its thresholds hold for such images; for others calibrate them anew, with "
            "`detector.calibrate`. The file contains statistics and features of the training "
            "images, from which their contents may be recovered in part.", "",
            "## To be written", "",
            "- What the images show, where they are from, and their licence.",
            "- What the model found on which test images, and what it missed.",
        ]
    ) + "\n"  # fmt: skip
