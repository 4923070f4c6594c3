"""Videos and pictures in, overlays out."""

from skavid.video.files import (
    BrokenVideoError,
    Frame,
    OverlayWriter,
    count_frames,
    draw_overlay,
    load_frames,
    read_frames,
    read_pairs,
    save_frames,
    write_overlay,
)

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
