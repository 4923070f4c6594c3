"""Reading of videos and images, and overlays that show the results of a detector."""

from skavid.video.decoding import BrokenVideoError
from skavid.video.frames import (
    Frame,
    count_frames,
    load_frames,
    read_frames,
    read_pairs,
    save_frames,
)
from skavid.video.overlays import OverlayWriter, draw_overlay, write_overlay

__all__ = [
    "BrokenVideoError",
    "Frame",
    "OverlayWriter",
    "count_frames",
    "draw_overlay",
    "load_frames",
    "read_frames",
    "read_pairs",
    "save_frames",
    "write_overlay",
]
