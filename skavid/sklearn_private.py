"""What skavid uses of scikit-learn that is not public there, in one place.

Checked on scikit-learn 1.7 (the oldest supported) and 1.9. A weekly CI job runs the tests against
the newest releases; what changes there is mended here.
"""

from __future__ import annotations

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
    validate_params,
)
from sklearn.utils._set_output import _get_output_config as get_output_config

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "fit_context",
    "get_output_config",
    "validate_parameter_constraints",
    "validate_params",
]
