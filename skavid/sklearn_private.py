"""What skavid uses of scikit-learn that is not public there, in one place.

Checked on scikit-learn 1.7 (the oldest supported) and 1.9. A weekly CI job runs the tests against
the newest releases; what changes there is mended here.
"""

from __future__ import annotations

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

__all__: list[str] = []  # nothing here is promised to users
