"""Cross-validation for novelty detection, as in Sec. 4.1 and 4.3."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_array, check_random_state, column_or_1d, indexable
from sklearn.utils.validation import check_consistent_length

__all__ = ["NoveltyKFold"]

_Indices = npt.NDArray[np.intp]
_REGULAR = "regular samples (y == 1)"
_IRREGULAR = "irregular samples (y == -1)"


class NoveltyKFold(BaseCrossValidator):  # type: ignore[misc]
    """K-fold cross-validation for novelty detection: train on regular samples, test on both kinds.

    Every sample is in exactly one test fold, and each test fold holds regular and irregular
    samples. Training folds hold no irregular samples and none of a group in the test fold. It is
    suitable for any detector that is trained on normal samples.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether to assign samples to folds at random. Without it, test folds hold consecutive
        samples, such as neighbouring frames. With ``groups``, only groups of the same size and
        kind are exchanged.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffle; pass an int for reproducible folds.

    See Also
    --------
    sklearn.model_selection.StratifiedGroupKFold : Keeps groups together, but trains on both kinds.

    Notes
    -----
    A search that refits (``GridSearchCV(refit=True)``) trains its last model on all samples,
    including irregular ones. Pass ``refit=False`` and fit ``best_params_`` on ``X[y == 1]`` to
    avoid that.

    With y, ``cross_val_predict`` takes ``decision_function`` for that of a classifier. Obtain the
    scores of a detector without y, by
    ``cross_val_predict(detector, X, cv=list(cv.split(X, y)), method="decision_function")``.

    With ``groups``, each group is tested as a whole: large groups are assigned first, each to the
    fold with the smallest share of such samples so far. Regular samples of a group that also
    holds irregular ones are in the training folds that do not test the group. With metadata
    routing the splitter requests ``groups`` by default, as ``GroupKFold`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.svm import OneClassSVM
    >>> from skavid import NoveltyKFold
    >>> y = np.array([1, 1, 1, 1, -1, -1])
    >>> for train, test in NoveltyKFold(2).split(y, y):
    ...     print(train, test)
    [2 3] [0 1 4]
    [0 1] [2 3 5]

    The samples may be sorted by label, for which ``KFold`` would yield folds of one kind:

    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(90, 2)), rng.normal(5, size=(9, 2))])
    >>> y = np.repeat([1, -1], [90, 9])
    >>> cross_val_score(OneClassSVM(), X, y, cv=NoveltyKFold(3), scoring="roc_auc").round(2)
    array([1., 1., 1.])
    """

    # For scikit-learn's metadata routing: groups are requested by default.
    __metadata_request__split: ClassVar[dict[str, bool]] = {"groups": True}

    n_splits: int
    shuffle: bool
    random_state: int | np.random.RandomState | None

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        # Checked here, as in scikit-learn's splitters, which have no fit.
        if not isinstance(n_splits, Integral) or isinstance(n_splits, bool):
            raise TypeError(f"n_splits must be an int. Got {n_splits!r}.")
        if n_splits < 2:
            raise ValueError(f"n_splits must be at least 2. Got {n_splits!r}.")
        if not isinstance(shuffle, bool | np.bool_):
            raise TypeError(f"shuffle must be True or False. Got {shuffle!r}.")
        if random_state is not None and not shuffle:
            raise ValueError(
                f"random_state has no effect without shuffle=True. Got {random_state!r}; leave "
                "it out or pass shuffle=True."
            )
        self.n_splits = int(n_splits)
        self.shuffle = bool(shuffle)
        self.random_state = random_state

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X : object
            Ignored, exists for compatibility.
        y : object
            Ignored, exists for compatibility.
        groups : object
            Ignored, exists for compatibility.

        Returns
        -------
        n_splits : int
            The number of folds.
        """
        return self.n_splits

    def split(
        self, X: Any, y: npt.ArrayLike | None = None, groups: npt.ArrayLike | None = None
    ) -> Iterator[tuple[_Indices, _Indices]]:
        """Generate the indices of the training and test samples of each fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Only its length is used.
        y : array-like of shape (n_samples,) or (n_samples, ...)
            1 for regular and -1 for irregular samples. Or boolean masks, where a sample is
            irregular if its mask is not empty.
        groups : array-like of shape (n_samples,), default=None
            Clip or object of each sample; no group is in both the training and the test samples
            of a fold.

        Yields
        ------
        train : ndarray of shape (n_train,)
            Regular samples, in ascending order.
        test : ndarray of shape (n_test,)
            Samples of both kinds, in ascending order.

        Raises
        ------
        ValueError
            If y has other labels, or there are fewer regular or irregular samples (with
            ``groups``: fewer groups with such samples) than folds.
        """
        X, y, groups = indexable(X, y, groups)
        regular = _check_labels(y)
        check_consistent_length(X, regular)
        folds = self._assign(regular) if groups is None else self._assign_groups(regular, groups)
        for fold in range(self.n_splits):
            tested = folds == fold
            yield np.flatnonzero(regular & ~tested), np.flatnonzero(tested)

    def _assign(self, regular: npt.NDArray[np.bool_]) -> _Indices:
        """Assign each sample to a test fold, each kind in equal parts."""
        rng = check_random_state(self.random_state)
        folds = np.empty(len(regular), dtype=np.intp)
        for kind, name in ((regular, _REGULAR), (~regular, _IRREGULAR)):
            samples = np.flatnonzero(kind)
            self._check_enough(len(samples), name)
            if self.shuffle:
                rng.shuffle(samples)
            for fold, part in enumerate(np.array_split(samples, self.n_splits)):
                folds[part] = fold
        return folds

    def _assign_groups(self, regular: npt.NDArray[np.bool_], groups: npt.ArrayLike) -> _Indices:
        """Assign each group to a test fold, so that every fold has both kinds."""
        ids = check_array(groups, input_name="groups", ensure_2d=False, dtype=None)
        _, group = np.unique(column_or_1d(ids), return_inverse=True)
        n_groups = group.max() + 1
        # (n_groups, 2): the regular and the irregular samples of each group
        counts = np.stack(
            [np.bincount(group[kind], minlength=n_groups) for kind in (regular, ~regular)], axis=1
        )
        for has_kind, name in zip((counts > 0).T, (_REGULAR, _IRREGULAR), strict=True):
            self._check_enough(int(has_kind.sum()), f"groups that hold {name}")
        order = np.arange(n_groups)
        if self.shuffle:
            check_random_state(self.random_state).shuffle(order)
        order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
        # Mixed groups are assigned first, each to an empty fold while there is one; then groups
        # of one kind reach every fold that still lacks it.
        order = order[np.argsort(-(counts[order] > 0).sum(axis=1), kind="stable")]
        shares = counts / counts.sum(axis=0)
        held = np.zeros((self.n_splits, 2))
        fold_of = np.empty(n_groups, dtype=np.intp)
        for index in order:
            fold_of[index] = fold = np.argmin(held @ shares[index])
            held[fold] += shares[index]
        return fold_of[group]

    def _check_enough(self, found: int, what: str) -> None:
        if found < self.n_splits:
            raise ValueError(
                f"n_splits={self.n_splits} needs at least {self.n_splits} {what}, one per fold. "
                f"Got {found}."
            )


def _check_labels(y: Any) -> npt.NDArray[np.bool_]:
    """Check y and return which samples are regular."""
    if y is None:
        raise ValueError(
            "NoveltyKFold needs y: 1 for regular, -1 for irregular samples. Got None."
        )
    masks = np.asarray(y)
    if masks.dtype == bool and masks.ndim > 1:
        return np.asarray(~masks.reshape(len(masks), -1).any(axis=1))
    labels = column_or_1d(y)
    found = np.unique(labels)
    if set(found.tolist()) <= {1, -1}:
        return np.asarray(labels == 1)
    shown = ", ".join(repr(label) for label in found[:5].tolist())
    hint = (
        "where 1 marks the irregular ones, pass np.where(y == 0, 1, -1)"
        if set(found.tolist()) <= {0, 1}
        else "pass np.where(y == regular_label, 1, -1)"
    )
    raise ValueError(
        f"y must be 1 for regular and -1 for irregular samples. Got labels {shown}; {hint}."
    )
