"""How a detector is written to a file, and kept by pickle, joblib and skops."""

from __future__ import annotations

import copyreg
import os
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skavid import persistence

__all__: list[str] = []  # a part of AVIDDetector: nothing here is promised to users


class SavedEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator that is saved and loaded by its parameters and attributes.

    The estimator has the parameter ``features``, checks its parameters by
    ``_parameter_constraints``, and has ``alpha_`` once it is fitted.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]]

    def save(self, path: str | os.PathLike[str], *, compact: bool = False) -> None:
        """Write the fitted detector to one file, without pickle.

        Needs the extra ``save``; `load` reads the file. Read more in the user guide: what is
        kept, and what a file is to be trusted with.

        Parameters
        ----------
        path : str or path
            Where to; ".skavid" or ".safetensors" are good suffixes. An existing file is replaced
            once the new one is complete.
        compact : bool, default=False
            Round the remembered features of normal images to 8 bits, and covariances to half
            precision where they do not follow from these: the file is about half as large, and
            scores change a little. Only for detectors on a feature map (`features`
            other than "pixels"); others are written as they are.

        Raises
        ------
        ValueError
            If a parameter is a function or something else that a file without code cannot keep.
        OSError
            If the file cannot be written; nothing is left of it.

        Notes
        -----
        Scores, maps and masks of the loaded detector are equal to the last bit on the same
        machine, with the same releases, unless the file is compact. ``net_``, which only a
        further training needs, is not kept; `callbacks`, `checkpoint`, `memory` and a
        `random_state` that is no integer become None. A dict ``extra_`` that you set is kept
        until the next `fit`, if JSON can hold it: the command line notes there how sources are
        read.
        """
        check_is_fitted(self)
        persistence.save_model(path, *self._kept(), compact=compact)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, features: nn.Module | None = None) -> Self:
        """Read a detector that `save` wrote; nothing in the file is run.

        Parameters
        ----------
        path : str or path
            The file.
        features : Module, default=None
            The module that the detector was fitted with as `features`, if it was one of yours: a
            file without code cannot keep it. Its weights must be those of the training.

        Returns
        -------
        detector : AVIDDetector
            It scores, segments and can be fitted anew; without its optimisers `partial_fit` and
            `warm_start` cannot go on.

        Raises
        ------
        ValueError
            If the file is cut off, damaged, of a format that this release does not know, or
            holds what cannot be; if `features` is missing, or not the module of the training.
        FileNotFoundError
            If there is none.
        """
        kept = persistence.load_model(path, cls._parameter_constraints, features)
        return cls._restore(cls(), *kept)

    def _kept(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[Any]]]:
        attributes = dict(vars(self))
        if "members_" in attributes:
            kept = [member._kept()[:2] for member in self.members_]  # noqa: SLF001
            attributes["members_"] = kept
        return self.get_params(deep=False), attributes, self._parameter_constraints

    def _restore(self, parameters: dict[str, Any], attributes: dict[str, Any]) -> Self:
        self.__dict__.update(type(self)(**parameters).__dict__)
        self.__dict__.update(attributes)
        if "members_" in attributes:
            kept = attributes["members_"]
            made = [type(self)()._restore(*member) for member in kept]  # noqa: SLF001
            self.members_ = tuple(made)
        return self

    # pickle, joblib and copy keep all...
    def __reduce_ex__(self, protocol: Any) -> Any:
        return copyreg.__newobj__, (type(self),), super().__getstate__()  # type: ignore[attr-defined]

    # ...skops, which knows no tensors, gets the bytes that `save` would write.
    def __getstate__(self) -> dict[str, Any]:
        if not hasattr(self, "alpha_"):
            return dict(super().__getstate__())
        if isinstance(self.features, nn.Module):
            raise ValueError(
                "features is a module, which skops cannot keep; use save and load, or joblib."
            )
        return {"file": np.frombuffer(persistence.pack(*self._kept()), np.uint8)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if set(state) == {"file"}:
            data = state["file"].tobytes()
            self._restore(*persistence.unpack(data, self._parameter_constraints))
        else:
            super().__setstate__(state)
