"""How well irregular images, regions and pixels are found."""

from skavid.metrics.scores import (
    aupro_score,
    cell_scores,
    clip_auc_score,
    equal_error_rate,
    make_map_scorer,
    pixel_level_auc_score,
    pixel_level_curve,
    pixel_level_equal_error_rate,
    pro_curve,
    rbdc_score,
    region_level_auc_score,
    region_level_equal_error_rate,
    region_track_curve,
    tbdc_score,
    threshold_plane,
)

__all__ = [
    "aupro_score",
    "cell_scores",
    "clip_auc_score",
    "equal_error_rate",
    "make_map_scorer",
    "pixel_level_auc_score",
    "pixel_level_curve",
    "pixel_level_equal_error_rate",
    "pro_curve",
    "rbdc_score",
    "region_level_auc_score",
    "region_level_equal_error_rate",
    "region_track_curve",
    "tbdc_score",
    "threshold_plane",
]
