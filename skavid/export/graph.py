"""One ONNX graph of the whole method, from frames to scores and masks (Sec. 3.1 to 3.4, Eq. 4).

The graph is written node by node: with sizes that are known only at run time, torch's exporter
(2.13) took minutes and rested on guesses about them. So what `networks`, `regions` and
`anomaly_maps` compute stands here once more, in ONNX's operations, and `verify_onnx` compares.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skavid import __version__
from skavid.components import ignored_pixels
from skavid.core.anomaly_maps import LOG_LIMIT, TINY, AnomalyMaps
from skavid.core.images import RESIDUAL_FLOOR
from skavid.core.joined_pair import LARGEST_LOG, JoinedPair, mean_unit
from skavid.core.networks import STEEPNESS, Detector, Inpainter
from skavid.core.pixel_pair import PixelPair
from skavid.estimator import AVIDDetector
from skavid.export import feature_maps
from skavid.sklearn_private import validate_parameters
from skavid.writing import replace

__all__ = ["to_onnx", "verify_onnx"]

DTYPES = ("uint8", "float32")
RUNTIMES = ("onnxruntime", "openvino")
# As old as they can be: runtimes of 2022 and later read this.
OPSET, IR_VERSION = 17, 8
TOLERANCE = 1e-4
TIED_PLACES = 25  # of an image, whose regularity may differ: those around a place or two
VERIFIED_PIXELS = 2**20

OUTPUTS = {
    "score": "as score_samples: the higher, the more normal; above 0 where the mask is empty",
    "anomaly_map": "the evidence: at least 0 where a pixel is irregular",
    "mask": "Eq. 4: True where a pixel is irregular",
    "residual": "|X - I(X)|, in units of the value range",
    "regularity": "D's score, in [0, 1]",
}


def to_onnx(detector: AVIDDetector, path: str | os.PathLike[str], *, dtype: str = "uint8") -> None:
    """Write a fitted detector as one ONNX graph, from frames to scores and masks.

    It holds all that `score_samples`, `segment` and `maps` do: scaling, both networks, filters,
    thresholds. No Python is needed to run it.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted.
    path : str or Path
        The file to write, ``detector.onnx``, say; replaced where it exists.
    dtype : {"uint8", "float32"}, default="uint8"
        Of the images that the graph takes: uint8 is 0 to 255, float32 has the units of the
        training images.

    Raises
    ------
    ImportError
        If onnx is missing.
    TypeError
        If ``detector`` is no AVIDDetector.
    ValueError
        If ``dtype`` is unknown, or the detector looks for connected patches (``min_area`` above
        1 with ``postprocessing__min_area_of="patch"``), which ONNX has no operation for.
    OSError
        If the file cannot be written. Nothing is left behind then.

    See Also
    --------
    verify_onnx : Compares the file with the detector.

    Notes
    -----
    Inputs: ``images`` (n, height, width, C), uint8 or float32; ``alpha`` and ``zeta``, float64
    scalars, which may be left out: the detector's own thresholds are taken then. Outputs:
    ``score`` (n,), ``anomaly_map``, ``mask``, ``residual`` and ``regularity``
    (n, height, width), all float32 but for the mask, which is bool.

    Any number, height and width of images will do, except that ``ignore_mask`` and
    ``corruption__inpainter="masking"`` fix height and width to those of the training images. The
    graph is of opset 17. Its metadata hold the version, value range, thresholds and what else
    made it: names as they are, numbers in JSON.

    Unlike the detector, the graph checks neither its images (NaN gives NaN) nor its thresholds
    (alpha is above 0, zeta in (0, 1)).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from skavid import AVIDDetector
    >>> from skavid.export import to_onnx, verify_onnx
    >>> X = np.random.default_rng(0).integers(0, 255, (40, 16, 16), dtype=np.uint8)
    >>> detector = AVIDDetector(max_epochs=1, random_state=0).fit(X)
    >>> path = Path(tempfile.mkdtemp()) / "detector.onnx"
    >>> to_onnx(detector, path)
    >>> verify_onnx(detector, path, X).mask
    0
    """
    replace(Path(path), build_model(detector, dtype, "to_onnx").SerializeToString())


def build_model(detector: AVIDDetector, dtype: str, function: str) -> Any:
    """Return the ONNX model of a detector, for ``function``, or refuse what has none."""
    onnx = _import("onnx", function)
    if not isinstance(detector, AVIDDetector):
        raise TypeError(
            f"detector must be an AVIDDetector. Got {type(detector).__name__}; of a Pipeline or a "
            "search give the detector inside, such as pipeline[-1]."
        )
    check_is_fitted(detector)
    validate_parameters(detector)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be 'uint8' or 'float32'. Got {dtype!r}.")
    processing = detector.component("postprocessing")
    if processing.min_area > 1 and processing.min_area_of == "patch":
        raise ValueError(
            f"detector asks for connected patches (min_area={processing.min_area}, "
            "min_area_of='patch'), which ONNX has no operation for; set postprocessing__min_area=0"
            " or postprocessing__min_area_of='image', and calibrate the thresholds for it."
        )
    graph = _Graph(onnx)
    _write_judgement(graph, detector, dtype)
    model = graph.model(_signature(onnx, detector, dtype), _metadata(detector, dtype))
    onnx.checker.check_model(model, full_check=True)
    return model


def verify_onnx(
    detector: AVIDDetector,
    path: str | os.PathLike[str],
    X: ArrayLike,
    *,
    runtime: str = "onnxruntime",
) -> Bunch:
    """Compare an exported graph with the detector that it was made from.

    Parameters
    ----------
    detector : AVIDDetector
        Fitted, with the thresholds that it had when it was exported.
    path : str or Path
        From `to_onnx`.
    X : array-like of shape (n_images, H, W), (n_images, H, W, C) or (n_images, H * W * C)
        Images; uint8 for a graph of uint8 images, any other numbers for one of float32.
    runtime : {"onnxruntime", "openvino"}, default="onnxruntime"
        What runs the graph, on the CPU. onnxruntime is needed for both: it reads what the graph
        takes.

    Returns
    -------
    differences : Bunch
        The largest ones: ``score``, ``anomaly_map``, ``residual`` and ``regularity``, float, and
        ``mask``, the number of pixels that differ though the evidence is not within 1e-4 of a
        tie. The evidence is a logarithm: where next to nothing was changed, it may differ by
        more than the other maps.

    Raises
    ------
    AssertionError
        If a score, a residual or the regularity of more than 25 regions of an image differs by
        more than 1e-4, or a mask away from ties. It names the first such image. So few regions
        may differ where two remembered images are equally near.
    ImportError
        If onnxruntime or the runtime is missing.
    FileNotFoundError
        If there is no such file.
    ValueError
        If X is not what the detector or the graph takes, or the runtime is unknown.

    Examples
    --------
    See `to_onnx`.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be 'onnxruntime' or 'openvino'. Got {runtime!r}.")
    ort = _import("onnxruntime", "verify_onnx")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there; write it with to_onnx first.")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # not: that thresholds with defaults are no constants
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    compiled = None
    if runtime == "openvino":
        compiled = _import("openvino", "verify_onnx").Core().compile_model(str(path), "CPU")
    # On the CPU like the graph: a GPU rounds otherwise.
    detector = copy.copy(detector).set_params(device="cpu")
    images = _check_against(given, detector.as_images(X), path)
    worst = Bunch(score=0.0, anomaly_map=0.0, mask=0, residual=0.0, regularity=0.0)
    tied_pixels = TIED_PLACES * detector.geometry_.size**2
    step = max(1, VERIFIED_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        part = images[start : start + step]
        if compiled is None:
            found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": part}), strict=True))
        else:
            results = compiled({"images": part})
            found = {name: results[name] for name in OUTPUTS}
        _compare(found, detector.maps(part), worst, start, tied_pixels)
    return worst


def _check_against(given: Any, images: NDArray[Any], path: str | os.PathLike[str]) -> NDArray[Any]:
    """Refuse images that are not what the graph's input takes."""
    takes_bytes = given.type == "tensor(uint8)"
    if takes_bytes != (images.dtype == np.uint8):
        raise ValueError(
            f"X holds {images.dtype}, but the graph in {path} takes "
            f"{'uint8' if takes_bytes else 'float32, in the units of the training images'}; "
            "convert X, or export with another dtype."
        )
    size, (height, width) = images.shape[1:3], given.shape[1:3]
    if isinstance(height, int) and size != (height, width):
        raise ValueError(
            f"X has images of {size[0]} x {size[1]} pixels, but the graph in {path} takes "
            f"{height} x {width} alone, for ignore_mask and masking fix the size."
        )
    return images if takes_bytes else images.astype(np.float32)


def _compare(
    found: dict[str, NDArray[Any]], maps: AnomalyMaps, worst: Bunch, start: int, tied_pixels: int
) -> None:
    """Raise the largest differences to those of some images."""
    expected: dict[str, NDArray[Any]] = {
        "score": maps.scores,
        "anomaly_map": maps.evidence,
        "residual": maps.residual,
        "regularity": maps.regularity,
        "mask": maps.mask,
    }
    failed = {}
    for name in ("score", "anomaly_map", "residual", "regularity"):
        difference = abs(found[name] - expected[name])
        worst[name] = max(worst[name], float(difference.max()))
        if name != "anomaly_map":
            failed[name] = ~(difference <= TOLERANCE)
    # Two remembered images may be equally near, and rounding chooses: D then reads another change
    # of the same size at a few places.
    is_tie = failed["regularity"].sum((1, 2), keepdims=True) <= tied_pixels
    failed["regularity"] &= ~is_tie
    failed["mask"] = (found["mask"] != expected["mask"]) & (abs(maps.evidence) > TOLERANCE)
    worst.mask += int(failed["mask"].sum())
    for name, where in failed.items():
        if where.any():
            place = tuple(int(i) for i in np.argwhere(where)[0])
            pixel = f", pixel {place[1:]}," if place[1:] else ""
            raise AssertionError(
                f"{name} of image {start + place[0]}{pixel} is {found[name][place]} by the graph, "
                f"but {expected[name][place]} by the detector; export it anew if it has changed."
            )


def _signature(
    onnx: Any, detector: AVIDDetector, dtype: str
) -> tuple[list[Any], dict[str, float], list[Any]]:
    """Describe the graph's inputs, the defaults of some, and its outputs."""
    height, width, n_channels = detector.image_shape_
    size = (height, width) if _is_fixed(detector) else ("height", "width")
    units = "0 to 255" if dtype == "uint8" else "in the units of the training images"

    def describe(name: str, dtype: str, shape: tuple[Any, ...], what: str) -> Any:
        number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return onnx.helper.make_tensor_value_info(name, number, shape, what)

    inputs = [
        describe("images", dtype, ("n", *size, n_channels), f"{dtype}, {units}"),
        describe("alpha", "float64", (), "threshold on the residual, above 0"),
        describe("zeta", "float64", (), "threshold on the regularity, in (0, 1)"),
    ]
    defaults = {"alpha": detector.alpha_, "zeta": detector.zeta_}
    outputs = [
        describe(
            name,
            "bool" if name == "mask" else "float32",
            ("n",) if name == "score" else ("n", *size),
            what,
        )
        for name, what in OUTPUTS.items()
    ]
    return inputs, defaults, outputs


def _metadata(detector: AVIDDetector, dtype: str) -> dict[str, Any]:
    return {
        "skavid_version": __version__,
        "image_shape": detector.image_shape_,
        "value_range": (0, 255) if dtype == "uint8" else detector.value_range_,
        "spacing": detector.component("corruption").spacing,
        "alpha": detector.alpha_,
        "zeta": detector.zeta_,
        "fusion": detector.fusion,
        "balance": detector.balance_,
        "smoothing": detector.pair_.filters["mean"],
        "dilation": detector.pair_.filters["maximum"],
        "min_area": detector.component("postprocessing").min_area,
        "target_fpr": detector.target_fpr,
    }


def _is_fixed(detector: AVIDDetector) -> bool:
    """Tell whether the graph serves images of the training images' size alone."""
    pair = detector.pair_
    if isinstance(pair, PixelPair):
        return detector.ignore_mask is not None or pair.draws is not None
    pairs: Any = pair.pairs if isinstance(pair, JoinedPair) else [pair]
    return detector.ignore_mask is not None or not all(
        isinstance(one, PixelPair) or one.inpainter.is_pooled for one in pairs
    )


def _import(name: str, function: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name if name == "openvino" else "'skavid[onnx]'"
        raise ImportError(f"{function} needs {name}; pip install {package}.") from error


# --- the method, in ONNX's operations ------------------------------------------------------------


class _Graph:
    """Nodes in the order in which they are computed; a call adds one and names its result."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[tuple[Any, ...], Any] = {}

    def __call__(self, operation: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Add a node; an input that is no name is a constant: int64, or float32."""
        result = name or f"{operation.lower()}_{len(self.nodes)}"
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        # TopK says which places, too.
        results = [result, f"{result}_places"] if operation == "TopK" else [result]
        self.nodes.append(self.onnx.helper.make_node(operation, names, results, **attributes))
        return result

    def _constant(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            value = value.detach().numpy()
        elif not isinstance(value, np.ndarray):
            value = np.array(value)
            value = value.astype(np.int64 if value.dtype.kind == "i" else np.float32)
        # The same weights once, though "masking" runs them for each draw.
        key = value.dtype, value.shape, value.tobytes()
        if key not in self.constants:
            name = f"constant_{len(self.constants)}"
            self.constants[key] = self.onnx.numpy_helper.from_array(value, name)
        return str(self.constants[key].name)

    def cast(self, values: str, dtype: str) -> str:
        number = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self("Cast", values, to=number)

    def model(
        self, signature: tuple[list[Any], dict[str, float], list[Any]], metadata: dict[str, Any]
    ) -> Any:
        inputs, defaults, outputs = signature
        # An initializer of an input's name is its default.
        chosen = [
            self.onnx.numpy_helper.from_array(np.array(value, np.float64), name)
            for name, value in defaults.items()
        ]
        helper = self.onnx.helper
        model = helper.make_model(
            helper.make_graph(
                self.nodes, "avid", inputs, outputs, [*self.constants.values(), *chosen]
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="skavid",
            producer_version=__version__,
        )
        texts = {
            name: value if isinstance(value, str) else json.dumps(value, default=np.generic.item)
            for name, value in metadata.items()
        }
        helper.set_model_props(model, texts)
        return model


def _write_judgement(g: _Graph, detector: AVIDDetector, dtype: str) -> None:
    """Lead from ``images``, ``alpha`` and ``zeta`` to all outputs."""
    ignore_mask = ignored_pixels(detector.ignore_mask, detector.image_shape_[:2])
    pair = detector.pair_
    images = _scale(g, detector, dtype)
    if ignore_mask is not None:
        images = g("Where", ignore_mask, 0.5, images)
    size = _length(g, images, 2), _length(g, images, 3)

    if isinstance(pair, JoinedPair):
        maps = [
            _judge(g, member, own, images, size, ignore_mask)
            for member, own in zip(detector.members_, pair.pairs, strict=True)
        ]
        changed, doubted = _most_irregular(g, maps, pair.units)
    else:
        changed, doubted = _judge(g, detector, pair, images, size, ignore_mask)
    if ignore_mask is not None:
        changed = g("Where", ignore_mask, 0.0, changed)
        doubted = g("Where", ignore_mask, -LOG_LIMIT, doubted)
    residual = g("Identity", changed, name="residual")
    # Not ONNX's Sigmoid: runtimes cut it off near 1, where a threshold may lie.
    regularity = g("Reciprocal", g("Add", g("Exp", doubted), 1.0), name="regularity")

    margins = _inpainter_margin(g, residual), _detector_margin(g, doubted, regularity)
    evidence = _join(g, detector, *margins)
    min_area = detector.component("postprocessing").min_area
    if min_area > 1:
        evidence = _cut_at_largest(g, evidence, min_area)
    evidence = g("Identity", evidence, name="anomaly_map")
    g("GreaterOrEqual", evidence, 0.0, name="mask")
    g("Sub", 0.0, g("ReduceMax", evidence, axes=[1, 2], keepdims=0), name="score")


def _judge(
    g: _Graph, detector: AVIDDetector, pair: Any, images: str, size: tuple[str, str],
    ignore_mask: NDArray[np.bool_] | None,
) -> tuple[str, str]:  # fmt: skip
    """Return both maps: D's logits with their sign turned, so that both rise with irregularity."""
    if isinstance(pair, PixelPair):
        doubted = g("Neg", _lowest_region(g, detector, _score_regions(g, detector, images), size))
        if not pair.judges:
            doubted = _smooth(g, doubted, **pair.filters, ignore_mask=ignore_mask)
            return doubted, doubted  # nobody asks for the first one
        change = g("Abs", g("Sub", images, _restore(g, detector, pair, images, size)))
        reduce = "ReduceMax" if pair.channel_reduction == "max" else "ReduceMean"
        changed = g(reduce, change, axes=[1], keepdims=0)  # (n, h, w)
    else:
        residual, logits = feature_maps.judge(g, detector, images, size)
        changed, doubted = (
            g("Neg", _lowest_region(g, detector, scores, size))
            for scores in (g("Neg", residual), logits)
        )
    both = [_smooth(g, one, **pair.filters, ignore_mask=ignore_mask) for one in (changed, doubted)]
    return both[0], both[1]


def _most_irregular(
    g: _Graph, maps: list[tuple[str, str]], units: NDArray[np.float64]
) -> tuple[str, str]:
    """Follow joined_pair.join."""
    logs = [
        g("Log", g("Max", changed, RESIDUAL_FLOOR)) if s > 0 else changed
        for (changed, _), s in zip(maps, units[:, 0, 1], strict=True)
    ]
    found = []
    for i, some in enumerate((logs, [doubted for _, doubted in maps])):
        mean, spread = mean_unit(units[:, i])
        if spread == 0:
            found.append(some[0])
            continue
        apart = [
            g("Mul", g("Sub", one, float(m)), float(spread / s))
            for one, (m, s) in zip(some, units[:, i], strict=True)
            if s > 0
        ]
        found.append(g("Add", g("Max", *apart) if len(apart) > 1 else apart[0], float(mean)))
    return g("Exp", g("Min", found[0], LARGEST_LOG)), found[1]


def _scale(g: _Graph, detector: AVIDDetector, dtype: str) -> str:
    """Scale to [0, 1] and put channels first."""
    if dtype == "uint8":
        scaled = g("Div", g.cast("images", "float32"), 255.0)
    else:
        # In float64, for a value range may be narrow and far from 0.
        low, high = detector.value_range_
        above = g("Sub", g.cast("images", "float64"), np.array(low))
        scaled = g.cast(g("Div", above, np.array(high - low)), "float32")
    return g("Transpose", scaled, perm=[0, 3, 1, 2])


# --- networks ------------------------------------------------------------------------------------


def _restore(
    g: _Graph, detector: AVIDDetector, pair: PixelPair, images: str, size: tuple[str, str]
) -> str:
    """Compute I(X), as PixelPair does."""
    network = pair.inpainter
    if pair.draws is None:
        # One more channel of zeros: nothing is masked.
        seen = g("Pad", images, [0, 0, 0, 0, 0, 1, 0, 0])
        return g("Add", images, _correct(g, network, seen, size))
    height, width, n_channels = detector.image_shape_
    level = g("ReduceMean", images, axes=[2, 3])
    total, count = "", np.zeros((n_channels, height, width), np.float32)
    for draw in pair.draws(torch.zeros(1, n_channels, height, width)):
        masked, noise = draw.masked[0].numpy(), draw.images[0]  # of images that are 0 all over
        filled = g("Where", masked > 0, g("Add", level, noise), images)
        share = np.zeros((1, n_channels + 1, height, width), np.float32)
        share[0, -1] = masked.mean(0)
        seen = g("Add", g("Pad", filled, [0, 0, 0, 0, 0, 1, 0, 0]), share)
        correction = _correct(g, network, seen, size)
        restored = g("Add", filled, correction)
        if network.bounded:
            visible = 1 - masked
            mean = g("Div", g("ReduceSum", g("Mul", filled, visible), [1, 2, 3]),
                     max(float(visible.sum()), 1.0))  # fmt: skip
            guess = g("Mul", g("Sub", g("Add", mean, correction), 0.5), STEEPNESS)
            restored = g("Where", masked > 0, g("Sigmoid", guess), restored)
        part = g("Mul", restored, masked)
        total = g("Add", total, part) if total else part
        count += masked
    return g("Div", total, count)


def _correct(g: _Graph, network: Inpainter, seen: str, size: tuple[str, str]) -> str:
    """Follow Inpainter.forward to what it adds to its input."""
    step = network.patch * 2**network.depth
    features = _reflect(g, seen, *(_multiple(g, length, step) for length in size))
    features = _layers(g, network.enter, features)
    skips = []
    for down in network.down:
        skips.append(features)
        features = _layers(g, down, features)
    for level in reversed(range(network.depth)):
        features = _double(g, _layers(g, network.narrow[level], features))
        both = g("Concat", features, skips[level], axis=1)
        features = _layers(g, network.merge[level], both)
    correction = _layers(g, network.correct, features)
    if network.patch > 1:
        correction = g("DepthToSpace", correction, blocksize=network.patch, mode="CRD")
    return g("Slice", correction, [0, 0], g("Concat", *size, axis=0), [2, 3])


def _score_regions(g: _Graph, detector: AVIDDetector, images: str) -> str:
    """Follow Detector.forward; there may be regions beyond the image's, which hold no pixel."""
    network: Detector = detector.detector_
    size, jump = network.geometry
    lengths = _length(g, images, 2), _length(g, images, 3)
    if network.is_paper:
        beyond = (g("Max", g("Sub", length, size), 0) for length in lengths)
        whole = [g("Add", _multiple(g, length, jump), size) for length in beyond]
        logits = _layers(g, network.near, _reflect(g, images, *whole))
    else:
        whole = [_multiple(g, length, 2 * size) for length in lengths]
        near = _layers(g, network.near, _reflect(g, images, *whole))
        far = _double(g, _layers(g, network.far, near))
        logits = _layers(g, network.judge, g("Concat", near, far, axis=1))
    return g("Squeeze", logits, [1])


def _layers(g: _Graph, module: nn.Module, features: str) -> str:
    """Write the layers that `networks` is made of."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            features = _layers(g, layer, features)
        return features
    if isinstance(module, nn.Conv2d):
        pads = list(module.padding)
        if module.padding_mode == "replicate":
            features = g("Pad", features, [0, 0, *pads, 0, 0, *pads], mode="edge")
            pads = [0, 0]
        bias = [] if module.bias is None else [module.bias]
        return g("Conv", features, module.weight, *bias, strides=module.stride, pads=2 * pads)
    if isinstance(module, nn.BatchNorm2d):
        weights = module.weight, module.bias, module.running_mean, module.running_var
        return g("BatchNormalization", features, *weights, epsilon=module.eps)
    if isinstance(module, nn.LeakyReLU):
        return g("LeakyRelu", features, alpha=module.negative_slope)
    if isinstance(module, nn.ReLU):
        return g("Relu", features)
    raise NotImplementedError(
        f"{type(module).__name__} layers cannot be exported; skavid's own networks have none."
    )


def _double(g: _Graph, features: str) -> str:
    return g("Resize", features, "", [1.0, 1.0, 2.0, 2.0], mode="linear",
             coordinate_transformation_mode="half_pixel")  # fmt: skip


# --- sizes and regions: lengths are tensors of shape (1,) ----------------------------------------


def _length(g: _Graph, values: str, axis: int) -> str:
    return g("Shape", values, start=axis, end=axis + 1)


def _range(g: _Graph, length: str) -> str:
    return g("Range", 0, g("Squeeze", length), 1)


def _multiple(g: _Graph, length: str, step: int) -> str:
    return g("Mul", g("Div", g("Add", length, step - 1), step), step)


def _reflect(g: _Graph, images: str, height: str, width: str) -> str:
    """Reflect beyond the lower and the right edge, as regions.reflect_pad does."""
    for axis, whole in ((2, height), (3, width)):
        period = g("Mul", g("Sub", _length(g, images, axis), 1), 2)
        places = g("Mod", _range(g, whole), g("Max", period, 1))
        images = g("Gather", images, g("Min", places, g("Sub", period, places)), axis=axis)
    return images


def _lowest_region(g: _Graph, detector: AVIDDetector, scores: str, size: tuple[str, str]) -> str:
    """Give each pixel the lowest of the regions that hold it, as regions.lowest_region."""
    side, jump = detector.geometry_
    for axis, length in ((2, size[1]), (1, size[0])):
        pixels = _range(g, length)
        # Numbers stay positive: ONNX's division rounds towards 0.
        first = g("Div", g("Max", g("Sub", pixels, side - jump), 0), jump)
        last = g("Min", g("Div", pixels, jump), g("Sub", _length(g, scores, axis), 1))
        held = [
            g("Gather", scores, g("Min", g("Add", first, step), last), axis=axis)
            for step in range(math.ceil(side / jump))
        ]
        scores = g("Min", *held) if len(held) > 1 else held[0]
    return scores


# --- maps ----------------------------------------------------------------------------------------


def _smooth(
    g: _Graph, maps: str, *, mean: int, maximum: int, ignore_mask: NDArray[np.bool_] | None
) -> str:
    """Follow anomaly_maps.smooth."""
    if mean > 1 or ignore_mask is not None:
        middle = _median(g, maps, ignore_mask)
        if ignore_mask is not None:
            maps = g("Where", ignore_mask, middle, maps)
        if mean > 1:
            outside = g("Sub", maps, middle)  # 0 where the median is
            maps = g("Add", _filter(g, "AveragePool", outside, mean, count_include_pad=1), middle)
    return _filter(g, "MaxPool", maps, maximum) if maximum > 1 else maps


def _filter(g: _Graph, operation: str, maps: str, side: int, **attributes: Any) -> str:
    """Filter rows, then columns; an even side reaches one pixel further up and left."""
    before, after = side // 2, (side - 1) // 2
    maps = g("Unsqueeze", maps, [1])
    maps = g(operation, maps, kernel_shape=[side, 1], pads=[before, 0, after, 0], **attributes)
    maps = g(operation, maps, kernel_shape=[1, side], pads=[0, before, 0, after], **attributes)
    return g("Squeeze", maps, [1])


def _median(g: _Graph, maps: str, ignore_mask: NDArray[np.bool_] | None) -> str:
    """Compute the median of each image over pixels that count, (n, 1, 1)."""
    flat = g("Flatten", maps, axis=1)
    if ignore_mask is not None:
        flat = g("Gather", flat, np.flatnonzero(~ignore_mask), axis=1)
    n = _length(g, flat, 1)
    below, above = g("Div", n, 2), g("Div", g("Sub", n, 1), 2)
    largest = g("TopK", flat, g("Add", below, 1))
    pair = (g("Gather", largest, place, axis=1) for place in (below, above))
    return g("Unsqueeze", g("Div", g("Add", *pair), 2.0), [2])


def _cut_at_largest(g: _Graph, evidence: str, min_area: int) -> str:
    flat = g("Flatten", evidence, axis=1)
    n = g("Min", _length(g, flat, 1), min_area)
    cut = g("Gather", g("TopK", flat, n), g("Sub", n, 1), axis=1)
    return g("Min", evidence, g("Unsqueeze", cut, [2]))


def _inpainter_margin(g: _Graph, residual: str) -> str:
    margin = g(
        "Sub", g("Log", g("Max", residual, RESIDUAL_FLOOR)), g.cast(g("Log", "alpha"), "float32")
    )
    return _with_sign(g, margin, g("GreaterOrEqual", residual, g.cast("alpha", "float32")))


def _detector_margin(g: _Graph, doubted: str, regularity: str) -> str:
    logit = g("Log", g("Div", "zeta", g("Sub", np.array(1.0), "zeta")))
    margin = g("Add", doubted, g.cast(logit, "float32"))
    return _with_sign(g, margin, g("LessOrEqual", regularity, g.cast("zeta", "float32")))


def _with_sign(g: _Graph, margin: str, holds: str) -> str:
    return g("Where", holds, g("Max", margin, 0.0), g("Min", margin, -TINY))


def _join(g: _Graph, detector: AVIDDetector, inpainter: str, judge: str) -> str:
    fusion = detector.rule_.fusion
    if fusion == "inpainter":
        return inpainter
    if fusion == "detector":
        return judge
    if fusion == "min":
        return g("Min", inpainter, judge)
    share = detector.balance_
    return g("Add", g("Mul", inpainter, share), g("Mul", judge, 1 - share))
