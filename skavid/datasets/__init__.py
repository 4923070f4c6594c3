"""Data sets, folders of pictures and drawn scenes, as arrays."""

from skavid.datasets.loaders import (
    load_avenue,
    load_folder,
    load_idx,
    load_magnetic_tiles,
    load_mvtec,
    load_shanghaitech,
    load_ucsd_ped1,
    load_ucsd_ped2,
    load_umn,
    make_ir_mnist,
    make_moving_shapes,
)

__all__ = [
    "load_avenue",
    "load_folder",
    "load_idx",
    "load_magnetic_tiles",
    "load_mvtec",
    "load_shanghaitech",
    "load_ucsd_ped1",
    "load_ucsd_ped2",
    "load_umn",
    "make_ir_mnist",
    "make_moving_shapes",
]
