"""Parameters that several test modules share."""

from skavid.components import AdversarialTraining, Corruption, DetectorNetwork, Postprocessing

ON_STACKS = {
    "features": "pixels",
    "corruption": Corruption(spacing=2),
    "detector": DetectorNetwork(region_size="auto"),
    "training": AdversarialTraining(adversarial_weight=0.0, crop_size="auto"),
    "validation_fraction": 0.2,
    "balance": 0.2,
    "postprocessing": Postprocessing(smoothing="auto", dilation="auto"),
}
"""Networks over the pixels of stacked video, with all sizes "auto"."""
