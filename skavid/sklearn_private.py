"""The private functions of scikit-learn that skavid uses, in one place.

Checked on scikit-learn 1.7 (the oldest supported) and 1.9. A weekly CI job runs the tests against
the newest releases; adapt this module to changes there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sklearn.base import _fit_context
from sklearn.utils._param_validation import HasMethods as HasMethods
from sklearn.utils._param_validation import Interval as Interval
from sklearn.utils._param_validation import StrOptions as StrOptions
from sklearn.utils._param_validation import (
    validate_parameter_constraints as validate_parameter_constraints,
)
from sklearn.utils._param_validation import validate_params as validate_params
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names_in

check_feature_names_in = _check_feature_names_in
fit_context = _fit_context
get_output_config = _get_output_config

__all__: list[str] = []  # internal to skavid

_Function = TypeVar("_Function", bound=Callable[..., Any])


def validated(**constraints: list[Any]) -> Callable[[_Function], _Function]:
    """Decorate a function so that scikit-learn validates the named parameters."""
    decorator: Callable[[_Function], _Function] = validate_params(
        constraints, prefer_skip_nested_validation=True
    )
    return decorator


def parameter_constraints(estimator: Any) -> dict[str, list[Any]]:
    """Return the constraints on the parameters of an estimator, or of its class."""
    constraints: dict[str, list[Any]] = estimator._parameter_constraints
    return constraints


def validate_parameters(estimator: Any) -> None:
    """Validate the parameters of an estimator, as `fit` does."""
    estimator._validate_params()
