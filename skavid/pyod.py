"""AVID under the names of PyOD, for programs that are written for its detectors.

PyOD itself is not needed: its detectors are known by their names, and by nothing else.
"""

from __future__ import annotations

from numbers import Real
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from skavid.estimator import AVIDDetector
from skavid.sklearn_private import Interval, fit_context

__all__ = ["AVID"]


class AVID(BaseEstimator):  # type: ignore[misc]
    """AVIDDetector with the names, signs and labels of PyOD's detectors.

    Parameters
    ----------
    contamination : float, default=0.1
        Share of the training images that are labelled as outliers, in (0, 0.5].
    detector : AVIDDetector, default=None
        What is fitted, with this `contamination`. None takes the default parameters; rows need one
        with `image_shape`.

    Attributes
    ----------
    detector_ : AVIDDetector
        The fitted detector, for masks and maps.
    decision_scores_ : ndarray of shape (n_images,), float64
        Of the training images: the higher, the more abnormal.
    threshold_ : float
        Images are labelled as outliers above it. Always next to 0, since the evidence is measured
        from both thresholds of the detector.
    labels_ : ndarray of shape (n_images,), int
        Of the training images: 1 for outliers, 0 for the others.

    Examples
    --------
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.pyod import AVID
    >>> rows = np.random.default_rng(0).normal(size=(40, 256))
    >>> inner = AVIDDetector(image_shape=(16, 16), max_epochs=1, random_state=0)
    >>> model = AVID(contamination=0.1, detector=inner).fit(rows)
    >>> int(model.labels_.sum()), model.predict(rows[:2] + 5)
    (4, array([1, 1]))
    """

    _parameter_constraints: ClassVar = {
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "detector": [AVIDDetector, None],
    }

    def __init__(
        self, contamination: float = 0.1, *, detector: AVIDDetector | None = None
    ) -> None:
        self.contamination = contamination
        self.detector = detector

    @fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> AVID:
        """Fit the detector.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features), (n_images, H, W) or (n_images, H, W, C)
            Images, nearly all of them normal.
        y : array-like of shape (n_images,), default=None
            Ignored.

        Returns
        -------
        self : AVID
            The fitted detector.
        """
        detector = AVIDDetector() if self.detector is None else clone(self.detector)
        detector.set_params(contamination=self.contamination).fit(X)
        self.detector_ = detector
        self.decision_scores_ = self.decision_function(X)
        self.threshold_ = -detector.offset_
        self.labels_: NDArray[np.int64] = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score images: the higher, the more abnormal.

        Parameters
        ----------
        X : array-like
            Images, in a shape that `fit` takes.

        Returns
        -------
        scores : ndarray of shape (n_images,), float64
            The largest evidence of each image.
        """
        check_is_fitted(self, "detector_")
        return -self.detector_.score_samples(X)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Label images.

        Parameters
        ----------
        X : array-like
            Images, in a shape that `fit` takes.

        Returns
        -------
        labels : ndarray of shape (n_images,), int
            1 for outliers, whose mask is not empty, and 0 for the others.
        """
        return (self.decision_function(X) > self.threshold_).astype(int)

    def fit_predict(self, X: ArrayLike, y: ArrayLike | None = None) -> NDArray[np.int64]:
        """Fit the detector, and label the training images.

        Parameters
        ----------
        X : array-like
            Images, in a shape that `fit` takes.
        y : array-like of shape (n_images,), default=None
            Ignored.

        Returns
        -------
        labels : ndarray of shape (n_images,), int
            `labels_`.
        """
        self.fit(X)
        return self.labels_

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score images in [0, 1].

        Parameters
        ----------
        X : array-like
            Images, in a shape that `fit` takes.

        Returns
        -------
        p : ndarray of shape (n_images, 2), float64
            In the second column, "outlier", the share of held-out training images that are less
            abnormal; in the first one the rest, `AVIDDetector.p_values`. Where PyOD stretches the
            scores between the least and the most abnormal training image, this is a share.
        """
        check_is_fitted(self, "detector_")
        p = self.detector_.p_values(X)
        return np.column_stack([p, 1 - p])
