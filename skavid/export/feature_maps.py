"""The pair on a feature map in ONNX's operations: what `feature_training.judge` computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skavid.core.detector_training import MOST_CHANGE, evenness
from skavid.core.feature_training import LARGEST_CHANGE, LEAST_CHANGE
from skavid.core.features import (
    CELL,
    DARK,
    LENGTH,
    MEANS_AT,
    MOVING,
    N_RESOLUTIONS,
    REACH,
    STAY,
    TIES,
    FrozenFeatures,
    ImageNetFeatures,
    MotionFeatures,
    PatchFeatures,
    displacements,
    window_reach,
)
from skavid.core.linear import SAME, LinearInpainter
from skavid.core.networks import ResidualDetector
from skavid.core.whole_image import FARTHEST, LARGEST_LOG, LEAST_PEAK, USUAL, WholeImage

__all__: list[str] = []

TO_THE_END = 2**31 - 1
LARGEST = 3e38
FLOAT = 1  # of ONNX's types
Graph = Any  # of `export`: a call adds a node and names its result


def judge(g: Graph, detector: Any, images: str, size: tuple[str, str]) -> tuple[str, str]:
    """Lead from images to both maps on the grid of the features.

    Parameters
    ----------
    g : Graph
        Of `skavid.export`.
    detector : AVIDDetector
        Fitted on a feature map.
    images : str
        Scaled images, channels first.
    size : tuple of str
        Their height and width.

    Returns
    -------
    residual, logits : str
        As `skavid.core.feature_training.judge` returns them, each (n, n1, n2).
    """
    inpainter: LinearInpainter = detector.inpainter_
    features = _features(g, detector, images, size)
    white, change, apart = _changes(g, inpainter, features)
    even = evenness(inpainter)
    residual = g("Div", change, even)
    seen = g("Min", g("Div", g("Abs", white), even), MOST_CHANGE)
    if detector.detector_.sees_features:
        usual = g("Sub", features, inpainter.mean.mean(0)[:, None, None])
        usual = g("Div", usual, inpainter.scale[:, None, None])
        seen = g("Concat", seen, g("Clip", usual, -MOST_CHANGE, MOST_CHANGE), axis=1)
    members = [_layers(g, member, seen) for member in detector.detector_.members]
    logits = g("Squeeze", g("Mean", *members), [1])
    if detector.detector_.sees_features:
        residual, logits = _weigh(g, detector.detector_, seen, residual, logits)
    change = _whole(g, detector.whole_, features)
    residual, logits = _lift(g, detector.whole_, residual, logits, apart, change)
    return _with_whole(g, detector.whole_, residual, logits, change)


def _weigh(
    g: Graph, detector: ResidualDetector, read: str, residual: str, logits: str
) -> tuple[str, str]:
    """Follow ResidualDetector.weigh."""
    (nothing, usual), still = detector.moves.tolist(), float(detector.still)
    length = g("Squeeze", g("Slice", read, [LENGTH], [LENGTH + 1], [1]), [1])
    moves = g("Clip", g("Div", g("Sub", length, nothing), usual - nothing), 0.0, 1.0)
    weight = g("Add", g("Mul", moves, 1 - still), still)
    logits = g("Min", logits, float(detector.normal))
    doubt = g("Sub", float(detector.normal), logits)
    less = g("Mul", g("Sub", 1.0, weight), doubt)
    return g("Mul", residual, weight), g("Add", logits, less)


def _features(g: Graph, detector: Any, images: str, size: tuple[str, str]) -> str:
    module = detector.features_
    if not isinstance(module, PatchFeatures | MotionFeatures | ImageNetFeatures):
        raise NotImplementedError(
            f"features={type(module.network).__name__} cannot be exported by skavid; export that "
            "module by torch.onnx, or take features='patches', 'motion' or 'imagenet'."
        )
    if isinstance(module, MotionFeatures) and module.shrink > 1:
        images = _pad_end(g, images, [g("Mod", g("Neg", n), module.shrink) for n in size])
        images = _average(g, images, module.shrink)
    if module.enlarge > 1:
        images = _resize(g, images, module.enlarge)
    cell = 8 if isinstance(module, ImageNetFeatures) else CELL
    if isinstance(module, PatchFeatures):
        features = _patches(g, module, images)
    elif isinstance(module, MotionFeatures):
        newest = g("Slice", images, [module.n_channels - 1], [module.n_channels], [1])
        appearance = _patches(g, module.appearance, newest)
        motion = _motion(g, module, images)
        # Its sides are multiples of the step, too, and may be longer.
        ends = g("Concat", *_size(g, appearance), axis=0)
        features = g("Concat", appearance, g("Slice", motion, [0, 0], ends, [2, 3]), axis=1)
    else:
        features = _imagenet(g, module, images)
    if module.enlarge > cell:
        features = _average(g, features, module.enlarge // cell)
    ends = [g("Div", g("Add", n, module.region_size - 1), module.region_size) for n in size]
    return str(g("Slice", features, [0, 0], g("Concat", *ends, axis=0), [2, 3]))


def _patches(g: Graph, module: PatchFeatures, images: str) -> str:
    """Follow PatchFeatures.forward."""
    coarsest = 2 ** (N_RESOLUTIONS - 1)
    images = _pad_end(g, images, [g("Mod", g("Neg", n), coarsest) for n in _size(g, images)])
    means, texture, wide = [], [], []
    for level in range(N_RESOLUTIONS):
        if level:
            images = _average(g, images, 2)
        factor = CELL / 2**level
        near = _neighbours(g, images)
        if level in MEANS_AT:
            each = [g("Unsqueeze", one, [2]) for one in near]
            shape = _length(g, images, 0), [9 * module.n_channels], *_size(g, images)
            both = g("Reshape", g("Concat", *each, axis=2), g("Concat", *_named(g, shape), axis=0))
            means.append(_to_grid(g, both, factor))
        pairs = [(5, 3), (7, 1), (8, 0), (6, 2)]
        differences = [g("Sub", near[a], near[b]) for a, b in pairs]
        twice = g("Mul", near[4], 2.0)
        differences += [g("Sub", g("Add", near[a], near[b]), twice) for a, b in pairs[:2]]
        strengths = [g("ReduceMean", g("Abs", one), axes=[1]) for one in differences]
        edges = _to_grid(g, g("Concat", *strengths, axis=1), factor)
        texture.append(_smooth(g, edges))
        wide.append(_resize(g, _smooth(g, _average(g, edges, 2)), 2))
    texture = [g("Log", g("Add", one, DARK)) for one in texture + wide]
    return str(g("Concat", *texture, *means, axis=1))


def _motion(g: Graph, module: MotionFeatures, images: str) -> str:
    """Follow MotionFeatures.forward beyond the appearance."""
    coarsest = max(2 ** (N_RESOLUTIONS - 1), module.step)
    images = _pad_end(g, images, [g("Mod", g("Neg", n), coarsest) for n in _size(g, images)])
    n = module.n_channels
    moments = g("Slice", images, [n - 2], [n], [1])
    if module.step > 1:
        moments = _average(g, moments, module.step)
    every = max(1, CELL // module.step)
    moved = g("Mul", _displacement(g, moments, every), module.step / CELL)
    near, wide = [], []
    for level in range(N_RESOLUTIONS):
        if level:
            images = _average(g, images, 2)
        later, earlier = g("Slice", images, [1], [n], [1]), g("Slice", images, [0], [n - 1], [1])
        changes = _to_grid(g, g("Abs", g("Sub", later, earlier)), CELL / 2**level)
        near.append(_smooth(g, changes))
        wide.append(_resize(g, _smooth(g, _average(g, changes, 2)), 2))
    moved = _to_grid(g, moved, CELL / (module.step * every))
    changes = g("Log", g("Add", g("Concat", *near, *wide, axis=1), DARK))
    around = _resize(g, _smooth(g, _average(g, moved, 2)), 2)
    return str(g("Concat", changes, _smooth(g, moved), around, axis=1))


def _displacement(g: Graph, moments: str, every: int) -> str:
    """Follow features.displacement."""
    shifts = displacements()
    kernels = torch.zeros(len(shifts), 1, 2 * REACH + 1, 2 * REACH + 1)
    for kernel, (y, x) in zip(kernels, shifts[:, :2].int().tolist(), strict=True):
        kernel[0, REACH - y, REACH - x] = 1
    earlier, later = g("Slice", moments, [0], [1], [1]), g("Slice", moments, [1], [2], [1])
    padded = g("Pad", earlier, [0, 0, REACH, REACH, 0, 0, REACH, REACH], mode="edge")
    error = g("Abs", g("Sub", later, g("Conv", padded, kernels)))
    if every > 1:
        error = _average(g, error, every)
    reach = window_reach(every)
    error = g("Pad", error, [0, 0, reach, reach, 0, 0, reach, reach], mode="edge")
    error = g("AveragePool", error, kernel_shape=[2 * reach + 1] * 2)
    moves = g("Min", g("Div", g("Slice", error, [0], [1], [1]), MOVING), 1.0)
    cost = g("Add", error, (STAY / REACH * shifts[:, 2])[:, None, None])
    best = g("ArgMin", g("Round", g("Mul", cost, TIES)), axis=1, keepdims=0)
    return str(g("Mul", g("Transpose", g("Gather", shifts, best), perm=[0, 3, 1, 2]), moves))


def _imagenet(g: Graph, module: FrozenFeatures, images: str) -> str:
    """Follow FrozenFeatures.forward over EfficientNet-Lite0."""
    network: Any = module.network
    grey = g("Concat", images, images, images, axis=1)
    # One channel or three: the first three of what was repeated are right for both.
    images = g("Slice", grey, [0], [3], [1])
    images = g("Div", g("Sub", images, module.mean), module.spread)
    maps, taken = _relu6(g, _layers(g, network._conv_stem, images)), []
    for i, block in enumerate(network._blocks):
        maps = _block(g, block, maps)
        if i in network.TAPS:
            taken.append(maps)
    middle = taken[1]
    size = _size(g, middle)
    first = _smooth(g, taken[0])
    missing = [g("Sub", g("Mul", n, 2), m) for n, m in zip(size, _size(g, first), strict=True)]
    first = _average(g, _pad_end(g, first, missing), 2)
    last = _smooth(g, taken[2])
    shape = g("Concat", _length(g, last, 0), _length(g, last, 1), *size, axis=0)
    last = g("Resize", last, "", "", shape, mode="linear",
             coordinate_transformation_mode="half_pixel")  # fmt: skip
    return str(g("Concat", first, _smooth(g, middle), last, axis=1))


def _block(g: Graph, block: Any, images: str) -> str:
    maps = images
    if block.widens:
        maps = _relu6(g, _layers(g, block._expand_conv, maps))
    maps = _relu6(g, _layers(g, block._depthwise_conv, maps))
    maps = _layers(g, block._project_conv, maps)
    return str(g("Add", images, maps)) if block.is_residual else maps


def _changes(g: Graph, inpainter: LinearInpainter, features: str) -> tuple[str, str, str]:
    """Follow LinearInpainter.changes: (n, k, n1, n2), (n, n1, n2) and the sum of (n, 4, m)."""
    k, whitener = inpainter.n_features, inpainter.whitener
    remembered = None
    if inpainter._remembers:  # in half precision on disk, computed once when it is read
        rows = g("Div", g("Cast", inpainter.memory, to=FLOAT), inpainter.scale)
        remembered = g("Add", g("MatMul", rows, whitener), inpainter.offset)
    least = found = apart = ""
    for below, beside in inpainter._shifts():
        moved = features
        if below or beside:
            moved = g("Pad", features, [0, 0, below, beside, 0, 0, -below, -beside])
        rows = g("Sub", g("Transpose", moved, perm=[2, 3, 0, 1]), inpainter.origin)
        rows = g("Div", rows, inpainter.scale)
        if inpainter.is_pooled:
            change = g("Add", g("MatMul", rows, whitener[0]), inpainter.offset[0])
        else:
            rows = g("Reshape", rows, g("Concat", [-1], _length(g, rows, 2), [k], axis=0))
            change = g("Add", g("MatMul", rows, whitener), inpainter.offset)
            if remembered:
                change, distances = _from_nearest(
                    g, inpainter, change, remembered, bool(below or beside)
                )
                apart = distances or apart
            grid = [inpainter.n_rows], [inpainter.n_columns], _length(g, rows, 1), [k]
            change = g("Reshape", change, g("Concat", *_named(g, grid), axis=0))
        squares = g("ReduceSum", g("Mul", change, change), [3], keepdims=1)  # (n1, n2, n, 1)
        if below or beside:
            back = [-below, -beside, 0, 0, below, beside, 0, 0]
            change, squares = g("Pad", change, back), g("Pad", squares, back, LARGEST)
        if found:
            nearer = g("Less", squares, least)
            change = g("Where", nearer, change, found)
            squares = g("Where", nearer, squares, least)
        least, found = squares, change
    size = g("Sqrt", g("Div", g("Squeeze", least, [3]), float(k)))
    return (
        g("Transpose", found, perm=[2, 3, 0, 1]),
        g("Transpose", size, perm=[2, 0, 1]),
        apart and g("Div", apart, float(len(inpainter.mean) * k)),
    )


def _from_nearest(
    g: Graph, inpainter: LinearInpainter, white: str, remembered: str, is_beside: bool
) -> tuple[str, str]:
    cross = g("MatMul", white, g("Transpose", remembered, perm=[0, 2, 1]))
    distances = g("Sub", g("Mul", inpainter.squares, 0.5), cross)  # halves of them
    shape = g("Shape", white)

    def without(places: str) -> str:
        near = g("GatherElements", remembered, g("Expand", places, shape), axis=1)
        return str(g("Sub", white, near))

    if is_beside:
        return without(g("ArgMin", distances, axis=2, keepdims=1)), ""
    two = f"{g('TopK', distances, [2], axis=2, largest=0)}_places"
    change = without(g("Slice", two, [0], [1], [2]))
    same = g("ReduceMean", g("Mul", change, change), axes=[2], keepdims=1)
    change = g("Where", g("Less", same, SAME**2), without(g("Slice", two, [1], [2], [2])), change)
    length = g("ReduceSum", g("Mul", white, white), [2], keepdims=1)
    full = g("Max", g("Add", g("Mul", distances, 2.0), length), 0.0)  # (places, n, m)
    return change, g("ReduceSum", full, [0], keepdims=0)


def _lift(
    g: Graph, whole: WholeImage, residual: str, logits: str, apart: str, change: str
) -> tuple[str, str]:
    """Follow WholeImage.lift and log_distance."""
    of_change = g("Reshape", change, [-1, 1, 1])
    numbers = [(of_change, whole.oddity.tolist())]
    if apart:
        two = g("TopK", apart, [2], axis=1, largest=0)
        nearest, second = (g("Slice", two, [i], [i + 1], [1]) for i in range(2))
        least = g("Where", g("Less", nearest, SAME**2), second, nearest)
        distance = g("Unsqueeze", g("Log", g("Max", g("Sqrt", least), 1e-6)), [2])  # (n, 1, 1)
        numbers.append((distance, whole.nearness.tolist()))
    rises: list[str] = []  # of log R and of -logit
    for number, (mean, spread, *weights) in numbers:
        if any(weights):
            far = g("Sub", g("Div", g("Sub", number, mean), spread), USUAL)
            far = g("Clip", far, 0.0, FARTHEST)
            more = [g("Mul", far, weight) for weight in weights]
            rises = [g("Add", *both) for both in zip(rises, more, strict=True)] if rises else more
    if not rises:
        return residual, logits
    peak = g("Max", g("ReduceMax", residual, axes=[1, 2]), LEAST_PEAK)
    doubt = g("Neg", logits)
    odds = g("Exp", g("Sub", doubt, g("ReduceMax", doubt, axes=[1, 2])))
    rise = g("Min", g("Mul", rises[0], g("Div", residual, peak)), LARGEST_LOG)
    return g("Mul", residual, g("Exp", rise)), g("Sub", logits, g("Mul", rises[1], odds))


def _whole(g: Graph, whole: WholeImage, features: str) -> str:
    """Follow WholeImage.change, (n, 1, 1)."""
    mean = g("ReduceMean", features, axes=[2, 3])  # (n, k, 1, 1)
    apart = g("Sub", features, mean)
    spread = g("Sqrt", g("ReduceMean", g("Mul", apart, apart), axes=[2, 3]))
    size = _changes(g, whole.inpainter, g("Concat", mean, spread, axis=1))[1]
    return str(g("Log", g("Max", size, 1e-6)))


def _with_whole(
    g: Graph, whole: WholeImage, residual: str, logits: str, change: str
) -> tuple[str, str]:
    (start, slope), (begin, steep) = whole.to_residual.tolist(), whole.to_doubt.tolist()
    is_far = g("Greater", change, float(whole.farthest))
    least = g("Min", g("Add", g("Mul", change, slope), start), LARGEST_LOG)
    least = g("Where", is_far, g("Exp", least), 0.0)
    most = g("Where", is_far, g("Neg", g("Add", g("Mul", change, steep), begin)), LARGEST)
    residual = g("Clip", residual, LEAST_CHANGE, LARGEST_CHANGE)
    peak = g("ReduceMax", residual, axes=[1, 2])
    usual = float(whole.usual)
    places = g("Or", g("GreaterOrEqual", residual, usual), g("Less", peak, usual))
    doubted = g("Where", places, g("Neg", logits), -LARGEST)
    lowest = g("Neg", g("ReduceMax", doubted, axes=[1, 2]))
    factor = g("Max", g("Div", least, peak), 1.0)
    fall = g("Max", g("Sub", lowest, most), 0.0)
    return (
        g("Where", places, g("Mul", residual, factor), residual),
        g("Where", places, g("Sub", logits, fall), logits),
    )


def _layers(g: Graph, module: nn.Module, features: str) -> str:
    if isinstance(module, nn.Sequential):
        for layer in module:
            features = _layers(g, layer, features)
        return features
    if isinstance(module, nn.Conv2d):
        kernel, stride = module.kernel_size[0], module.stride[0]
        weights = [module.weight, *([] if module.bias is None else [module.bias])]
        options = {"strides": [stride] * 2, "group": module.groups}
        if module.padding_mode == "replicate":
            pads = [0, 0, *module.padding, 0, 0, *module.padding]
            features = g("Pad", features, pads, mode="edge")
        elif kernel > 1:  # as many places as ceil(side / stride): features._SameConv
            features = _pad_same(g, features, kernel, stride)
        return str(g("Conv", features, *weights, **options))
    if isinstance(module, nn.BatchNorm2d):
        mean, spread = module.running_mean, module.running_var
        assert mean is not None
        weight = torch.ones_like(mean) if module.weight is None else module.weight
        bias = torch.zeros_like(mean) if module.bias is None else module.bias
        return str(
            g("BatchNormalization", features, weight, bias, mean, spread, epsilon=module.eps)
        )
    assert isinstance(module, nn.LeakyReLU)
    return str(g("LeakyRelu", features, alpha=module.negative_slope))


def _pad_same(g: Graph, images: str, kernel: int, stride: int) -> str:
    before, after = [], []
    for n in _size(g, images):
        places = g("Div", g("Add", n, stride - 1), stride)
        reach = g("Add", g("Mul", g("Sub", places, 1), stride), kernel)
        total = g("Max", g("Sub", reach, n), 0)
        before.append(g("Div", total, 2))
        after.append(g("Sub", total, before[-1]))
    none = g("Identity", [0, 0])
    return str(g("Pad", images, g("Concat", none, *before, none, *after, axis=0)))


def _relu6(g: Graph, maps: str) -> str:
    return str(g("Clip", maps, 0.0, 6.0))


def _neighbours(g: Graph, images: str) -> list[str]:
    padded = g("Pad", images, [0, 0, 1, 1, 0, 0, 1, 1], mode="edge")
    return [
        g("Slice", padded, [y, x], [(y - 2) or TO_THE_END, (x - 2) or TO_THE_END], [2, 3])
        for y in range(3)
        for x in range(3)
    ]


def _smooth(g: Graph, maps: str) -> str:
    padded = g("Pad", maps, [0, 0, 1, 1, 0, 0, 1, 1], mode="edge")
    return str(g("AveragePool", padded, kernel_shape=[3, 3]))


def _average(g: Graph, maps: str, factor: int) -> str:
    return str(g("AveragePool", maps, kernel_shape=[factor] * 2, strides=[factor] * 2))


def _resize(g: Graph, maps: str, factor: int) -> str:
    return str(
        g("Resize", maps, "", [1.0, 1.0, float(factor), float(factor)], mode="linear",
          coordinate_transformation_mode="half_pixel")
    )  # fmt: skip


def _to_grid(g: Graph, maps: str, factor: float) -> str:
    if factor == 1:
        return maps
    return _average(g, maps, int(factor)) if factor > 1 else _resize(g, maps, int(1 / factor))


def _pad_end(g: Graph, images: str, missing: list[str]) -> str:
    pads = g("Concat", g("Identity", [0] * 6), *missing, axis=0)
    return str(g("Pad", images, pads, mode="edge"))


def _size(g: Graph, images: str) -> tuple[str, str]:
    return _length(g, images, 2), _length(g, images, 3)


def _length(g: Graph, images: str, axis: int) -> str:
    return str(g("Shape", images, start=axis, end=axis + 1))


def _named(g: Graph, shape: Any) -> list[str]:
    return [one if isinstance(one, str) else g("Identity", one) for one in shape]
