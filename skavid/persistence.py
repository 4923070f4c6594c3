"""Models on disk without pickle: weights as safetensors, other state as JSON in the header.

Files are untrusted: their header is compared with their content before anything is built, and
nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from torch import nn

from skavid.components import COMPONENTS, FORMER_NAMES, flattened, is_of_maps, nested
from skavid.core.corruption import CORRUPTIONS
from skavid.core.features import (
    FeatureMap,
    ImageNetFeatures,
    MotionFeatures,
    PatchFeatures,
    as_array,
    kind_of,
    make_features,
)
from skavid.core.images import check_value_range
from skavid.core.linear import LinearInpainter
from skavid.core.networks import Detector, Inpainter, ResidualDetector
from skavid.core.regions import PAPER_GEOMETRY, Geometry
from skavid.core.whole_image import WholeImage
from skavid.sklearn_private import (
    Interval,
    StrOptions,
    parameter_constraints,
    validate_parameter_constraints,
)
from skavid.storage import from_arrays, is_recalled, placeholders, to_arrays
from skavid.writing import check_target, replace

__all__: list[str] = []  # internal to AVIDDetector.save and load

# Incremented when the meaning of a file changes. Additions of a newer release may be missing in
# older files: a parameter takes its default, and an attribute must be in OPTIONAL.
FORMAT = 6
READABLE = tuple(range(1, FORMAT + 1))
# Arrays of networks that older files lack: since which format, and what stands for them.
NO_WEIGHT = np.array([0, 1, 0, 0], np.float32)
ADDED = {"whole.nearness": (5, NO_WEIGHT), "whole.oddity": (6, NO_WEIGHT)}
# Limits for the content of a file.
MOST_HEADER = 2**22  # bytes of JSON, most of them names of features
MOST_BYTES = 2**31
MOST_DIMENSIONS = 8  # of an array
MOST_PIXELS = 2**15  # of a filter's side
MOST_MAPS = 2**12  # channels, and width of a network
LONGEST_REASON = 500  # characters of an error

# Parameters of a training on one machine. Besides, a cache is read with pickle, so a file must not
# choose it, nor a file to write to.
NOT_KEPT = ("callbacks", "memory", "training__checkpoint")

_HUGE = 1e308  # a Python integer may be larger than any float
_COUNT = [Interval(Integral, 0, None, closed="left")]
_SHARE = [Interval(Real, 0, 1, closed="both")]
_MAPS = [Interval(Integral, 1, MOST_MAPS, closed="both")]
_PIXELS = [Interval(Integral, 0, MOST_PIXELS, closed="both")]

FITTED: dict[str, list[Any]] = {
    "image_shape_": [tuple],
    "n_features_in_": _COUNT,
    "feature_names_in_": [np.ndarray],
    "value_range_": [tuple],
    "geometry_": [tuple],
    "object_size_": [Interval(Real, 0, None, closed="neither"), None],
    "object_speed_": [Interval(Real, 0, None, closed="left"), None],
    "alpha_": [Interval(Real, 0, _HUGE, closed="neither")],
    "zeta_": [Interval(Real, 0, 1, closed="neither")],
    "balance_": _SHARE,
    "offset_": [Interval(Real, -_HUGE, _HUGE, closed="neither")],
    "calibration_": [dict, None],
    "normal_scores_": [np.ndarray, None],
    "history_": [list],
    "checkpoint_": [dict],
    "n_iter_": _COUNT,
    "_seed": [Interval(Integral, 0, 2**31 - 1, closed="both")],
    "_crop_size": [Interval(Integral, 1, None, closed="left"), None],
    "_auto_filters": [dict],
    "_trained_on": [dict],
    "extra_": [dict],
    "_is_blind": ["boolean"],
    "members_": [list],
    "units_": [np.ndarray],
}
"""The attributes of a fitted detector that are saved beside its networks, with constraints."""

OPTIONAL = {
    "feature_names_in_", "normal_scores_", "_trained_on", "extra_", "_is_blind", "members_",
    "units_",
}  # fmt: skip

_FORMER_CORRUPTIONS = {"grafts": "synthetic", "hiding": "masking"}  # of release 0.1.0

_SIZES: dict[str, dict[str, list[Any]]] = {
    "inpainter": {
        "n_channels": _MAPS,
        "width": _MAPS,
        "depth": [Interval(Integral, 1, 8, closed="both")],
        "patch": [Interval(Integral, 1, 32, closed="both")],
        "bounded": ["boolean"],
    },
    "detector": {"n_channels": _MAPS, "width": _MAPS},
}
_GAMMA = [Interval(Real, 0, _HUGE, closed="left")]
_FEATURE_SIZES: dict[str, dict[str, list[Any]]] = {
    "features": {
        "kind": [StrOptions({"patches", "motion", "imagenet", "module"})],
        "n_channels": [*_MAPS, None],
        "enlarge": [Interval(Integral, 1, 2**10, closed="both")],
        "step": [Interval(Integral, 1, 2**10, closed="both"), None],
        "shrink": [Interval(Integral, 1, 2**10, closed="both"), None],
        "sha256": [str, None],
    },
    "inpainter": {
        "n_features": _MAPS,
        "n_rows": _MAPS,
        "n_columns": _MAPS,
        "gamma": _GAMMA,
        "n_remembered": [Interval(Integral, 0, 2**24, closed="both")],
        "recalled": ["boolean"],
        "compact": ["boolean"],
    },
    "detector": {
        "n_features": _MAPS,
        "sees_features": ["boolean"],
        "width": _MAPS,
        "n_members": _MAPS,
    },
    "whole": {"n_features": _MAPS, "gamma": _GAMMA},
}
_FORM = {"recalled": False, "compact": False}
"""How a file holds the inpainter over a feature map; these values up to format 3."""
_BUILDERS: dict[str, Any] = {
    "inpainter": LinearInpainter,
    "detector": ResidualDetector,
    "whole": WholeImage,
}
"""The networks over a feature map, built from these sizes."""
_STATE = {"format", "versions", "networks", "parameters", "fitted", "model_card"}

# NumPy dtypes by their names in safetensors.
_KINDS = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype(np.uint8), "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32), "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8), "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32), "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16), "F32": np.dtype(np.float32), "F64": np.dtype(np.float64),
}  # fmt: skip
_DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8",
}  # fmt: skip
_KIND_OF = {dtype: kind for kind, dtype in _KINDS.items()}
_ODD_FLOATS = ("nan", "inf", "-inf")

Kept = tuple[dict[str, Any], dict[str, Any]]
Expected = dict[str, tuple[str, tuple[int, ...]]]


def versions() -> dict[str, str]:
    """Return the releases of skavid, Python and the packages that determine a score exactly."""
    # Not by an import statement, as skavid is a higher layer.
    package = importlib.import_module("skavid")
    return {
        "skavid": package.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": str(torch.__version__),
    }


def save_model(
    path: str | os.PathLike[str],
    parameters: Mapping[str, Any],
    attributes: Mapping[str, Any],
    constraints: Mapping[str, list[Any]],
    *,
    compact: bool = False,
) -> None:
    """Write a model to a file; an existing file is replaced at the end, or left unchanged."""
    path = Path(path)
    check_target(path)
    data = pack(parameters, attributes, constraints, compact=compact)
    replace(path, data)


def load_model(
    path: str | os.PathLike[str],
    constraints: Mapping[str, list[Any]],
    features: nn.Module | None = None,
) -> Kept:
    """Read an untrusted file that `save_model` wrote.

    ``features`` is the module that a detector on the user's own feature map was fitted with.
    Returns the parameters and the attributes, networks included.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}; give one that was written by AVIDDetector.save."
        )
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return _read(file, size, constraints, f"{path} cannot be loaded", features)


def pack(
    parameters: Mapping[str, Any],
    attributes: Mapping[str, Any],
    constraints: Mapping[str, list[Any]],
    *,
    compact: bool = False,
) -> bytes:
    """Serialise a model, and check that the result can be loaded.

    The bytes are in the safetensors format, with the state other than arrays as JSON in its
    metadata. Callbacks, checkpoint, memory and a RandomState become None. A compact model over a
    feature map has rounded statistics.
    """
    write = _import_safetensors().numpy.save
    arrays: dict[str, NDArray[Any]] = {}
    parameters = flattened(parameters)
    given = parameters["features"]
    has_module = isinstance(given, nn.Module)
    if has_module:
        parameters = {**parameters, "features": "module"}
    kept = {name: _encode(_keepable(name, parameters[name]), name, arrays) for name in parameters}
    maps = [kind_of(attributes["features_"]) if "features_" in attributes else "pixels"]
    if "members_" in attributes:  # each is a model of its own
        maps = [own["features"] for own, _ in attributes["members_"]]
        packed = [
            pack(own, its, constraints, compact=compact) for own, its in attributes["members_"]
        ]
        members = [np.frombuffer(data, np.uint8) for data in packed]
        attributes = {**attributes, "members_": members}
    fitted = {
        name: _encode(attributes[name], name, arrays) for name in FITTED if name in attributes
    }
    networks, sizes = _networks(attributes, compact)
    state = {
        "format": FORMAT,
        "versions": versions(),
        "networks": sizes,
        "parameters": kept,
        "fitted": fitted,
        "model_card": _model_card(kept, fitted, maps),
    }
    for part, network in networks.items():
        if part == "features":
            continue  # without weights, or with those of a package
        for name, tensor in _stored(network, sizes[part]).items():
            arrays[f"{part}.{name}"] = np.array(tensor.cpu().numpy(), order="C")
    text = json.dumps(state, allow_nan=False)
    data: bytes = write(arrays, {"skavid": text, "sha256": _checksum(text, arrays)})
    refused = "This AVIDDetector cannot be saved"
    _read(io.BytesIO(data), len(data), constraints, refused, given if has_module else None)
    return data


def unpack(data: bytes, constraints: Mapping[str, list[Any]]) -> Kept:
    """Read a model from untrusted bytes, as `load_model` does from a file."""
    return _read(io.BytesIO(data), len(data), constraints, "This model cannot be loaded")


def _networks(
    attributes: Mapping[str, Any], compact: bool
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the networks of a detector and their sizes; none where it joins those of others."""
    if "members_" in attributes:
        return {}, {}
    on_pixels = "features_" not in attributes
    networks = {part: attributes[f"{part}_"] for part in (_SIZES if on_pixels else _FEATURE_SIZES)}
    sizes = _sizes(**networks) if on_pixels else _feature_sizes(**networks, compact=compact)
    return networks, sizes


# --- writing -----------------------------------------------------------------------------------


def _keepable(name: str, value: Any) -> Any:
    if name in NOT_KEPT or isinstance(value, np.random.RandomState):
        return None
    if isinstance(value, nn.Module):
        raise ValueError(
            f"{name} is a module, {type(value).__name__}, which a file without code cannot hold."
        )
    if callable(value):
        own = next((own for own, known in CORRUPTIONS.items() if known is value), "synthetic")
        raise ValueError(
            f"{name} is a function, {value!r}, which a file without code cannot hold; save the "
            f"detector with joblib, or call set_params({name}={own!r}) if it is never fitted "
            "again."
        )
    return value


def _encode(value: Any, name: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Encode a value as JSON with arrays beside it; types unknown to JSON are marked by $."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, np.ndarray):
        return _encode_array(value, name, arrays)
    if isinstance(value, tuple | list):
        items = [_encode(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(k, str) and k[:1] != "$" for k in value):
        return {key: _encode(item, f"{name}.{key}", arrays) for key, item in value.items()}
    raise ValueError(
        f"{name} is {value!r}, which a file without code cannot hold; give numbers, text, tuples, "
        "lists or arrays."
    )


def _encode_array(value: NDArray[Any], name: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if value.dtype.kind in "OU" and value.ndim == 1 and all(isinstance(v, str) for v in value):
        return {"$strings": [str(v) for v in value]}
    native = value.astype(value.dtype.newbyteorder("="), order="C")
    if native.dtype not in _KIND_OF:
        raise ValueError(
            f"{name} is an array of {value.dtype}, which cannot be saved; convert it to numbers "
            "or bool."
        )
    arrays[f"array.{name}"] = native
    return {
        "$array": f"array.{name}",
        "kind": _KIND_OF[native.dtype],
        "shape": list(native.shape),
    }


def _sizes(inpainter: Inpainter, detector: Detector) -> dict[str, dict[str, Any]]:
    """Read the sizes from the networks, as parameters may have been set since."""
    first, other = (next(network.parameters()) for network in (inpainter, detector))
    return {
        "inpainter": {
            "n_channels": first.shape[1] - 1,  # one more for the mask
            "width": first.shape[0],
            "depth": inpainter.depth,
            "patch": inpainter.patch,
            "bounded": inpainter.bounded,
        },
        "detector": {"n_channels": other.shape[1], "width": other.shape[0]},
    }


def _feature_sizes(
    features: FeatureMap,
    inpainter: LinearInpainter,
    detector: ResidualDetector,
    whole: WholeImage,
    compact: bool,
) -> dict[str, dict[str, Any]]:
    recalled = inpainter.remembers_all if compact else is_recalled(inpainter)
    statistics = whole.inpainter
    return {
        "features": {
            "kind": kind_of(features),
            "n_channels": features.n_channels,
            "enlarge": features.enlarge,
            "step": features.step if isinstance(features, MotionFeatures) else None,
            "shrink": features.shrink if isinstance(features, MotionFeatures) else None,
            "sha256": _fingerprint(features) if kind_of(features) == "module" else None,
        },
        "inpainter": {
            "n_features": inpainter.n_features,
            "n_rows": inpainter.n_rows,
            "n_columns": inpainter.n_columns,
            "gamma": float(inpainter.gamma),
            "n_remembered": len(inpainter.keys),
            "recalled": recalled,
            "compact": compact,
        },
        "detector": {
            "n_features": detector.n_features,
            "sees_features": detector.sees_features,
            "width": detector.width,
            "n_members": len(detector.members),
        },
        "whole": {
            "n_features": statistics.n_features // 2,
            "gamma": float(statistics.gamma),
        },
    }


def _stored(network: nn.Module, sizes: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the arrays of a network that a file holds, or their shapes on the device "meta"."""
    if not isinstance(network, LinearInpainter):
        return dict(network.state_dict())
    made = placeholders if network.mean.is_meta else to_arrays
    return made(network, **{name: sizes[name] for name in _FORM})


def _model_card(
    parameters: dict[str, Any], fitted: dict[str, Any], maps: list[str]
) -> dict[str, Any]:
    """Describe the model for readers of the file; `load_model` ignores it."""
    return {
        "what": "AVID, adversarial visual irregularity detection: an inpainter and a detector, "
        "trained on normal images alone; see skavid.AVIDDetector.",
        "trained_on": {
            **fitted.get("_trained_on", {}),
            "image_shape": fitted["image_shape_"]["$tuple"],
            "value_range": fitted["value_range_"]["$tuple"],
        },
        "thresholds": {
            "alpha": fitted["alpha_"],
            "zeta": fitted["zeta_"],
            "balance": fitted["balance_"],
            "fusion": parameters["fusion"],
            "target_fpr": parameters["target_fpr"],
            "rest_on": fitted["calibration_"],
        },
        "features": maps,
        "n_epochs": len(fitted["history_"]),
        "kept_epochs": fitted["checkpoint_"],
    }


def _fingerprint(module: nn.Module) -> str:
    """Hash the weights and the input scaling of a user's feature map."""
    fed = {name: getattr(module, name) for name in ("n_channels", "enlarge")}
    fed |= {name: getattr(module, name).tolist() for name in ("mean", "spread")}
    weights = {name: as_array(tensor) for name, tensor in module.state_dict().items()}
    return _checksum(repr(fed), weights)


def _checksum(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()


# --- reading -----------------------------------------------------------------------------------


def _read(
    file: BinaryIO,
    size: int,
    constraints: Mapping[str, list[Any]],
    refused: str,
    features: nn.Module | None = None,
    *,
    is_inside: bool = False,
) -> Kept:
    try:
        return _audit(file, size, constraints, features, is_inside=is_inside)
    except RecursionError as error:
        raise ValueError(f"{refused}: its JSON is nested too deeply.") from error
    except ValueError as error:
        reason = str(error)
        tail = reason[1:] if len(reason) < LONGEST_REASON else f"{reason[1:LONGEST_REASON]}..."
        raise ValueError(f"{refused}: {reason[:1].lower()}{tail}") from error


def _audit(
    file: BinaryIO, size: int, constraints: Mapping[str, list[Any]], features: nn.Module | None,
    *, is_inside: bool,
) -> Kept:  # fmt: skip
    deserialize = _import_safetensors().deserialize
    head = _read_head(file, size)
    text, checksum = _metadata(head[8:])
    state = _state(text)
    if is_inside and "members_" in state["fitted"]:
        raise ValueError("it joins models itself, but must be a model on one feature map.")
    networks, expected = _promised(state)
    n_bytes = sum(_n_bytes(kind, shape) for kind, shape in expected.values())
    if len(head) + n_bytes > MOST_BYTES:
        raise ValueError(f"its arrays have {n_bytes:,} bytes, but a file may have {MOST_BYTES:,}.")
    n_unpacked = sum(
        tensor.nbytes for network in networks.values() for tensor in network.state_dict().values()
    )
    if n_unpacked > MOST_BYTES:
        raise ValueError(
            f"its networks would have {n_unpacked:,} bytes, but may have {MOST_BYTES:,}."
        )
    if len(head) + n_bytes != size:
        raise ValueError(
            f"it has {size:,} bytes, but its header describes {len(head) + n_bytes:,}; it was "
            "truncated or changed."
        )
    arrays = _arrays(deserialize, head + file.read(n_bytes), expected)
    if _checksum(text, arrays) != checksum:
        raise ValueError("its content does not match its checksum; it was damaged or changed.")
    parameters = {name: _decode(value, arrays) for name, value in state["parameters"].items()}
    if state["format"] < FORMAT:
        parameters = _renamed(parameters, state["format"])
    fitted = {name: _decode(value, arrays) for name, value in state["fitted"].items()}
    if "members_" in fitted:
        fitted["members_"] = _members(fitted["members_"], constraints)
    if "object_pace_" in fitted:  # release 0.1.0
        fitted["object_speed_"] = fitted.pop("object_pace_")
    map_of = state["networks"].get("features", {"kind": None})
    if features is not None and map_of["kind"] != "module":
        raise ValueError("it has no user-defined feature map; leave features out.")
    if map_of["kind"] == "module":
        if features is None:
            raise ValueError(
                "it has a user-defined feature map, which a file without code cannot hold; pass "
                "it: AVIDDetector.load(path, features=module)."
            )
        parameters["features"] = features
    parameters = _checked_parameters(parameters, constraints)
    _check_fitted(fitted, state["networks"])
    _check_members(parameters["features"], fitted)
    arrays = {name: array for name, (_, array) in ADDED.items()} | arrays
    for part, network in networks.items():
        fitted[f"{part}_"] = _filled(part, network, arrays, state["networks"][part])
    if features is not None:
        fitted["features_"] = _own_features(features, fitted["image_shape_"], map_of)
    elif map_of["kind"] is not None:
        fitted["features_"] = _features(**map_of)
    return parameters, fitted


def _members(packed: Any, constraints: Mapping[str, list[Any]]) -> list[Kept]:
    """Read the detectors inside a file that join their maps."""
    members = []
    for one in packed if isinstance(packed, list) else [None]:
        if not isinstance(one, np.ndarray) or one.dtype != np.uint8 or one.ndim != 1:
            raise ValueError("members_ must be models in bytes; it was changed.")
        data = one.tobytes()
        refused = "a model inside cannot be loaded"
        kept = _read(io.BytesIO(data), len(data), constraints, refused, is_inside=True)
        members.append(kept)
    return members


def _check_members(features: Any, fitted: Mapping[str, Any]) -> None:
    """Check that the detectors inside belong together, and are those that the parameter names."""
    members, units = fitted.get("members_"), fitted.get("units_")
    if members is None and units is None:
        return
    names = [str(kept[0]["features"]) for kept in members or ()]
    if len(names) < 2 or not is_of_maps(features, "+".join(names)):
        raise ValueError(
            f"features is {features!r}, but there are models on {names}; set features to that of "
            "the training, or fit anew."
        )
    for name in ("image_shape_", "value_range_"):
        if any(kept[1][name] != fitted[name] for kept in members or ()):
            raise ValueError(f"{name} of a model inside is another one; it was changed.")
    if (
        units is None or units.dtype != np.float64 or units.shape != (len(names), 2, 2)
        or not np.isfinite(units).all() or (units[..., 1] < 0).any()
        or any(unit == 0 for name, unit in zip(names, units[:, 0, 1], strict=True)
               if name != "pixels")
    ):  # fmt: skip
        raise ValueError("units_ must be a finite mean and spread for each map of each model.")


def _read_head(file: BinaryIO, size: int) -> bytes:
    """Read the length of the header and, if that is plausible, the header."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise ValueError("it was not written by AVIDDetector.save, or it was truncated.")
    if length > MOST_HEADER:
        raise ValueError(
            f"its header has {length:,} bytes, but may have {MOST_HEADER:,}; names of features "
            "are the longest part of it."
        )
    return prefix + file.read(length)


def _metadata(header: bytes) -> tuple[str, str]:
    try:
        metadata = json.loads(header)["__metadata__"]
        text, checksum = metadata["skavid"], metadata["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("it was not written by AVIDDetector.save.") from error
    if len(metadata) != 2 or not isinstance(text, str) or not isinstance(checksum, str):
        raise ValueError("its metadata must be the two strings skavid and sha256; it was changed.")
    return text, checksum


def _state(text: str) -> dict[str, Any]:
    try:
        state = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError("its description is not JSON; it was changed.") from error
    if not isinstance(state, dict):
        raise ValueError("its description is not a JSON object; it was changed.")
    found = state.get("format")
    if type(found) is not int or found not in READABLE:
        raise ValueError(
            f"it has the format {found!r}, but skavid {versions()['skavid']} reads formats up to "
            f"{FORMAT}; update skavid."
        )
    _check_names("entry", state, _STATE, _STATE)
    for name in sorted(_STATE - {"format"}):
        if not isinstance(state[name], dict):
            raise ValueError(f"its {name} must be a JSON object. Got {state[name]!r}.")
    return state


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_names(what: str, found: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    unknown, missing = set(found) - known, needed - set(found)
    if unknown:
        raise ValueError(
            f"the {what} {min(unknown)!r} is not known to skavid {versions()['skavid']}; update "
            "skavid."
        )
    if missing:
        raise ValueError(f"the {what} {min(missing)!r} is missing; it was changed.")


def _promised(state: dict[str, Any]) -> tuple[dict[str, nn.Module], Expected]:
    """Build networks without memory, and list the arrays that the file must contain."""
    sizes = state["networks"]
    parts = _FEATURE_SIZES if "features" in sizes else _SIZES
    if "members_" in state["fitted"]:
        parts = {}
    _check_names("network", sizes, set(parts), set(parts))
    for part, known in parts.items():
        if not isinstance(sizes[part], dict):
            raise ValueError(f"the {part} must have sizes. Got {sizes[part]!r}.")
        if part == "inpainter" and parts is _FEATURE_SIZES and state["format"] < 4:
            sizes[part] |= _FORM
        _check_names(f"size of the {part}", sizes[part], set(known), set(known))
        validate_parameter_constraints(known, sizes[part], part)
    geometry = _geometry(state["fitted"].get("geometry_"))
    networks: dict[str, nn.Module]
    with torch.device("meta"):
        if not parts:
            networks = {}
        elif parts is _FEATURE_SIZES:
            networks = {
                part: build(**{name: n for name, n in sizes[part].items() if name not in _FORM})
                for part, build in _BUILDERS.items()
            }
        else:
            networks = {
                "inpainter": Inpainter(**sizes["inpainter"]),
                "detector": Detector(geometry=geometry, **sizes["detector"]),
            }
    expected = {
        f"{part}.{name}": (_DTYPES[tensor.dtype], tuple(tensor.shape))
        for part, network in networks.items()
        for name, tensor in _stored(network, sizes[part]).items()
    }
    for name, (since, _) in ADDED.items():
        if state["format"] < since:
            expected.pop(name, None)
    for section in ("parameters", "fitted"):
        for name, kind, shape in _marked(state[section]):
            if name in expected:
                raise ValueError(f"the array {name!r} has two meanings; it was changed.")
            expected[name] = kind, shape
    return networks, expected


def _geometry(encoded: Any) -> Geometry:
    known = [PAPER_GEOMETRY] + [Geometry(2**i, 2**i) for i in range(7)]
    for geometry in known:
        if encoded == {"$tuple": list(geometry)}:
            return geometry
    raise ValueError(f"the regions {encoded!r} do not belong to any detector; it was changed.")


def _marked(value: Any) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield the arrays that the JSON refers to: (name, kind, shape)."""
    if isinstance(value, dict):
        if "$array" in value:
            yield _check_marker(value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _marked(item)


def _check_marker(marker: dict[str, Any]) -> tuple[str, str, tuple[int, ...]]:
    match marker:
        case {"$array": str(name), "kind": str(kind), "shape": list(shape)} if (
            len(marker) == 3
            and kind in _KINDS
            and len(shape) <= MOST_DIMENSIONS
            and all(type(side) is int and 0 <= side < MOST_BYTES for side in shape)
        ):
            return name, kind, tuple(shape)
    raise ValueError(f"an array is described by {marker!r}; it was changed.")


def _n_bytes(kind: str, shape: tuple[int, ...]) -> int:
    return _KINDS[kind].itemsize * math.prod(shape)


def _arrays(deserialize: Any, data: bytes, expected: Expected) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError

    try:
        entries = dict(deserialize(data))
    except SafetensorError as error:
        raise ValueError(f"its arrays cannot be read ({error}).") from error
    found = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    wrong = [n for n in sorted({*found, *expected}) if found.get(n) != expected.get(n)]
    if wrong:
        there, wanted = (_described(some.get(wrong[0])) for some in (found, expected))
        raise ValueError(
            f"the array {wrong[0]!r} is {there}, but must be {wanted}; it was changed."
        )
    return {name: _array(entry) for name, entry in entries.items()}


def _array(entry: dict[str, Any]) -> NDArray[Any]:
    dtype = _KINDS[entry["dtype"]]
    # A byte other than 0 and 1 is not a valid bool for NumPy.
    is_bool = dtype.kind == "b"
    stored = np.dtype(np.uint8) if is_bool else dtype.newbyteorder("<")
    array = np.frombuffer(entry["data"], stored).reshape(entry["shape"])
    return array != 0 if is_bool else array.astype(dtype)


def _described(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if entry is None else f"{entry[0]} of shape {entry[1]}"


def _decode(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: _decode(item, arrays) for key, item in value.items()}
    if "$array" in value:
        return arrays[value["$array"]]
    match value:
        case {"$tuple": list(items)} if len(value) == 1:
            return tuple(_decode(item, arrays) for item in items)
        case {"$strings": list(items)} if len(value) == 1 and all(
            isinstance(item, str) for item in items
        ):
            return np.array(items, dtype=object)
        case {"$float": str(name)} if len(value) == 1 and name in _ODD_FLOATS:
            return float(name)
    raise ValueError(f"it has {value!r}, which has no meaning; it was changed.")


def _renamed(parameters: dict[str, Any], file_format: int) -> dict[str, Any]:
    """Rename parameters of older formats, those of release 0.1.0 among them."""
    sigma = parameters.pop("sigma", 1.0)
    if isinstance(sigma, Real) and isinstance(parameters.get("gamma"), Real):
        parameters["gamma"] = float(parameters["gamma"] * sigma)  # the noise was their product
    if file_format == 1:
        parameters["features"] = "pixels"
    for name in ("inpainter_corruption", "detector_corruption"):
        value = parameters.get(name)
        if isinstance(value, str):
            parameters[name] = _FORMER_CORRUPTIONS.get(value, value)
    return {FORMER_NAMES.get(name, name): value for name, value in parameters.items()}


def _checked_parameters(
    parameters: dict[str, Any], constraints: Mapping[str, list[Any]]
) -> dict[str, Any]:
    """Check all parameters, and group those of components."""
    known = {name: rule for name, rule in constraints.items() if name not in COMPONENTS}
    for part, component in COMPONENTS.items():
        rules = parameter_constraints(component)
        known |= {f"{part}__{name}": rule for name, rule in rules.items()}
    _check_names("parameter", parameters, set(known), set())
    narrower = {**known, **{name: [None] for name in NOT_KEPT}}
    validate_parameter_constraints(narrower, parameters, "AVIDDetector")
    for name in ("postprocessing__smoothing", "postprocessing__dilation"):
        value = parameters.get(name, 0)
        if not isinstance(value, str):
            validate_parameter_constraints({name: _PIXELS}, {name: value}, "AVIDDetector")
    return dict.fromkeys(COMPONENTS) | nested(parameters)


def _check_fitted(fitted: dict[str, Any], sizes: dict[str, dict[str, Any]]) -> None:
    """Check the attributes of a fitted detector, and convert its geometry."""
    _check_names("attribute", fitted, set(FITTED), set(FITTED) - OPTIONAL)
    validate_parameter_constraints(FITTED, fitted, "AVIDDetector")
    shape = fitted["image_shape_"]
    if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"image_shape_ must be three positive integers. Got {shape!r}.")
    channels = {name: size["n_channels"] for name, size in sizes.items() if "n_channels" in size}
    if sizes.get("features", {}).get("kind") in ("imagenet", "module"):
        channels = {"features": shape[2]}  # grey images are repeated
    if channels and set(channels.values()) != {shape[2]}:
        raise ValueError(
            f"image_shape_ is {shape!r}, but the networks take {channels!r} channels."
        )
    n_features = fitted["n_features_in_"]
    if n_features != math.prod(shape):
        raise ValueError(f"n_features_in_ is {n_features}, but image_shape_ is {shape!r}.")
    names = fitted.get("feature_names_in_")
    if names is not None and (names.dtype != object or names.shape != (n_features,)):
        raise ValueError(f"feature_names_in_ must be {n_features} names.")
    scores = fitted.get("normal_scores_")
    if scores is not None and (
        scores.dtype != np.float64 or scores.ndim != 1 or not np.isfinite(scores).all()
        or len(scores) == 0
    ):  # fmt: skip
        raise ValueError("normal_scores_ must be one or more finite numbers of 64 bits.")
    low_high = fitted["value_range_"]
    if len(low_high) != 2 or not all(isinstance(end, float) for end in low_high):
        raise ValueError(f"value_range_ must be two floats. Got {low_high!r}.")
    check_value_range(low_high)
    filters = fitted["_auto_filters"]
    _check_names("filter", filters, {"mean", "maximum"}, {"mean", "maximum"})
    validate_parameter_constraints(dict.fromkeys(filters, _PIXELS), filters, "_auto_filters")
    fitted["geometry_"] = Geometry(*fitted["geometry_"])


def _own_features(
    given: nn.Module, image_shape: tuple[int, int, int], kept: dict[str, Any]
) -> nn.Module:
    """Check that the given module is the one that the detector was fitted with."""
    module = make_features(given, image_shape)
    if _fingerprint(module) != kept["sha256"]:
        raise ValueError(
            "features has other weights than the module that it was fitted with; pass that one."
        )
    return module


def _features(
    kind: str,
    n_channels: int,
    enlarge: int,
    step: int | None,
    shrink: int | None,
    sha256: str | None,
) -> FeatureMap:
    if kind == "patches":
        return PatchFeatures(n_channels, enlarge=enlarge)
    if kind == "motion":
        return MotionFeatures(n_channels, step=step or 1, enlarge=enlarge, shrink=shrink or 1)
    return ImageNetFeatures(enlarge=enlarge)


def _filled(
    part: str,
    network: nn.Module,
    arrays: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, Any],
) -> nn.Module:
    names = _stored(network, sizes)
    weights = {name: torch.from_numpy(arrays[f"{part}.{name}"]) for name in names}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise ValueError(f"the {part} has weights that are not finite.")
    if isinstance(network, LinearInpainter):
        from_arrays(network, weights, recalled=sizes["recalled"])
    else:
        network.load_state_dict(weights, assign=True)
    if not isinstance(network, Inpainter | Detector):
        try:
            for module in network.modules():
                if isinstance(module, LinearInpainter):
                    module.solve()
        except RuntimeError as error:
            raise ValueError(f"the {part} has impossible covariances.") from error
        return network.eval().requires_grad_(False)
    # The memory layout of the training, as another one may round differently.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def _import_safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "Models on disk need safetensors; pip install 'skavid[save]'."
        ) from error
    return safetensors
