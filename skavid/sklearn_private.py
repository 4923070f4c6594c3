"""What skavid uses of scikit-learn that is not public there, in one place.

Checked on scikit-learn 1.7 (the oldest supported) and 1.9. A weekly CI job runs the tests against
the newest releases; what changes there is mended here.
"""

from __future__ import annotations

from typing import Any

from sklearn.base import _fit_context
from sklearn.utils._param_validation import HasMethods as HasMethods
from sklearn.utils._param_validation import Interval as Interval
from sklearn.utils._param_validation import StrOptions as StrOptions
from sklearn.utils._param_validation import (
    validate_parameter_constraints as validate_parameter_constraints,
)
from sklearn.utils._param_validation import validate_params as validate_params
from sklearn.utils._set_output import _get_output_config

fit_context = _fit_context
get_output_config = _get_output_config


def parameter_constraints(estimator: Any) -> dict[str, list[Any]]:
    """Return what the parameters of an estimator, or of its class, may be."""
    constraints: dict[str, list[Any]] = estimator._parameter_constraints
    return constraints


def validate_parameters(estimator: Any) -> None:
    """Check the parameters of an estimator, as `fit` does."""
    estimator._validate_params()


__all__: list[str] = []  # nothing here is promised to users
