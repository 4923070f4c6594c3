"""Image files: their pages, pixels of more than 8 bits, and masks.

Pillow, and tifffile or PyAV for colours of 16 bits, are imported when an image is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skavid.wording import pixels_of

__all__: list[str] = []  # internal to skavid

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
ANIMATED = ("GIF", "PNG", "WEBP")  # formats whose frames have times
# By content, whatever the file name; for some of its other formats Pillow runs programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_SIGNATURES = re.compile(
    rb"BM|GIF8[79]a|\xff\xd8\xff|\x89PNG\r\n|II[*+]\0|MM\0[*+]|RIFF....WEBP", re.DOTALL
)
_REDUCED, _TRANSPARENCY = 1, 4  # bits of TIFF's tag 254: previews, and masks of other pages
_BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
_MOST_SAMPLED = 50  # images that are looked at to find the range of their values
_LOSSY_NOISE = 16  # differences up to this are artefacts of a lossy mask

Range = tuple[float, float]


def natural(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key that puts img2 before img10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], path.name


def list_pictures(folder: Path) -> list[Path]:
    """List the visible images in a folder in natural order."""
    found = (p for p in folder.glob("[!.]*") if p.suffix.lower() in PICTURES and p.is_file())
    return sorted(found, key=natural)


def spread(items: Sequence[Any], most: int = _MOST_SAMPLED) -> list[Any]:
    """Take at most so many of a sequence, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def import_pillow() -> Any:
    """Import Pillow, or say how to install it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Images need Pillow; pip install 'skavid[image]'.") from error
    return Image


# --- content of files ----------------------------------------------------------------------------


def begins_as_picture(path: Path) -> bool:
    """Return whether a file begins like an image, whatever its name."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() in (".mjpeg", ".mjpg"):  # many images behind each other
                return False
            return _SIGNATURES.match(file.read(16)) is not None
    except OSError:
        return False


def is_animation(path: Path) -> bool:
    """Return whether an image file holds several frames with times: GIF, WebP, animated PNG."""
    try:
        with path.open("rb") as file:
            head = file.read(2**12)
    except OSError:
        return False
    if not (head.startswith(b"GIF8") or b"ANIM" in head[:64] or b"acTL" in head):
        return False
    try:
        with opened_picture(path) as picture:
            return picture.format in ANIMATED and len(_page_numbers(picture)) > 1
    except (OSError, ImportError):
        return False


def count_pages(path: Path) -> int:
    """Return the number of images in a file: pages of a TIFF, frames of an animation.

    Previews of other pages do not count. A file that cannot be read counts as one image.
    """
    try:
        with path.open("rb") as file:
            head = file.read(2**12)
        has_pages = head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
        if not (has_pages or head.startswith(b"GIF8") or b"ANIM" in head[:64] or b"acTL" in head):
            return 1
        if (values := _unusual_pages(path)) is not None:
            return len(values)
        with opened_picture(path) as picture:
            return max(1, len(_page_numbers(picture)))
    except (OSError, ImportError):
        return 1


@contextmanager
def opened_picture(path: Path) -> Iterator[Any]:
    """Open an image file; every defect raises an OSError."""
    Image = import_pillow()
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            yield picture
    except OSError:
        raise
    except Image.DecompressionBombError as error:
        raise OSError(
            f"it claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, which Pillow takes "
            "for an attack (PIL.Image.MAX_IMAGE_PIXELS)"
        ) from error
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise OSError(f"it is damaged ({type(error).__name__})") from error


def read_pages(path: Path) -> Iterator[tuple[Any, float | None]]:
    """Yield the images of a file, and for how many seconds each frame of an animation is shown.

    The other pictures of a JPEG file are previews or second views, which are left out.
    """
    if (values := _unusual_pages(path)) is not None:
        Image = import_pillow()
        yield from ((Image.fromarray(page), None) for page in values)
        return
    with opened_picture(path) as picture:
        numbers = _page_numbers(picture)
        is_animated = picture.format in ANIMATED and len(numbers) > 1
        for number in numbers:
            picture.seek(number)
            if not is_animated:
                yield picture, None
                continue
            picture.load()
            # Browsers show frames without a duration for a tenth of a second.
            yield picture, (picture.info.get("duration") or 100) / 1000


def _unusual_pages(path: Path) -> list[NDArray[Any]] | None:
    """Read grey TIFF pages of 16 or 64 bits that Pillow cannot; None for other files."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    Image = import_pillow()
    try:
        with Image.open(path, formats=_FORMATS):
            return None
    except Image.UnidentifiedImageError:
        pass
    except Exception:  # told where the file is read
        return None
    with suppress(Exception):
        import tifffile

        with tifffile.TiffFile(path) as file:
            if file.pages.first.colormap is not None:
                return None  # values of 16 bits that are places in a palette
            pages = [page.asarray() for page in file.pages]
        if all(page.ndim == 2 and page.dtype.kind in "iuf" for page in pages):
            return [
                page.astype(np.float32 if page.dtype.kind == "f" else np.int32) for page in pages
            ]
    return None


def _page_numbers(picture: Any) -> list[int]:
    if picture.format not in (*ANIMATED, "TIFF"):
        return [0]
    numbers = list(range(getattr(picture, "n_frames", 1)))
    if picture.format == "TIFF" and len(numbers) > 1:
        whole = [number for number in numbers if not _is_preview(picture, number)]
        picture.seek(0)
        return whole or [0]
    if len(numbers) > 1 and picture.info.get("default_image"):  # no part of the animation
        del numbers[0]
    return numbers


def _is_preview(picture: Any, number: int) -> bool:
    picture.seek(number)
    return bool(int(picture.tag_v2.get(254, 0)) & (_REDUCED | _TRANSPARENCY))


# --- pixels --------------------------------------------------------------------------------------


def upright(picture: Any) -> Any:
    """Turn a picture as its orientation says."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(picture)
    turned.format = picture.format
    return turned


def shape_of(picture: Any) -> tuple[int, int]:
    """Return the height and width of an upright image, in most cases from its header."""
    from PIL import ExifTags, ImageOps

    width, height = picture.size
    if width == height:
        return height, width
    if picture.format not in ("JPEG", "MPO"):
        # A png may store its orientation after its pixels; whether the size of a tif is the
        # upright one depends on the release of Pillow.
        width, height = ImageOps.exif_transpose(picture).size
        return height, width
    is_turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (width, height) if is_turned else (height, width)


def page_shapes(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the height and width of each image in a file."""
    for picture, _ in read_pages(path):
        yield shape_of(picture)


def is_deep(picture: Any) -> bool:
    """Return whether a picture has more than 8 bits per value, or signed ones."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return True
    return _has_deep_colors(picture) or _is_signed(picture)


def _has_deep_colors(picture: Any) -> bool:
    """Return whether colours have 16 bits, which Pillow does not keep."""
    if picture.format == "TIFF" and hasattr(picture, "tag_v2"):
        return bool(np.max(picture.tag_v2.get(258, 8)) > 8)
    for tile in picture.tile:
        stored = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        return bool(stored) and ";16" in str(stored[0])
    return False


def _is_signed(picture: Any) -> bool:
    """Return whether values of 8 bits are signed, which Pillow does not say."""
    if picture.format != "TIFF" or picture.mode != "L":
        return False
    kind = picture.tag_v2.get(339, 1)
    return bool(np.ravel(kind)[0] == 2)


def stored_values(picture: Any, path: Path) -> NDArray[Any]:
    """Return the values of a deep picture as they are stored, (H, W) or (H, W, C)."""
    if _is_signed(picture):
        return np.asarray(upright(picture)).view(np.int8)
    if not picture.mode.startswith("I") and picture.mode != "F":
        values = _deep_colors(path, picture)
        if values is not None:
            return values
    return np.asarray(upright(picture))


def _deep_colors(path: Path, picture: Any) -> NDArray[Any] | None:
    """Read colours of 16 bits, of which Pillow keeps 8; None without a library that can."""
    values: NDArray[Any]
    if picture.format == "TIFF":
        with suppress(ImportError, ValueError, IndexError):
            import tifffile

            values = tifffile.imread(path, key=picture.tell())
            if values.ndim == 3 and values.shape[1:] == picture.size[::-1]:  # plane by plane
                values = np.moveaxis(values, 0, -1)
            if values.shape[:2] == picture.size[::-1]:
                return values
    with suppress(Exception):
        import av

        if picture.tell() == 0:
            with av.open(str(path)) as container:
                frame = next(container.decode(video=0))
                values = frame.to_ndarray(format="rgb48le")
            return values
    return None


def see_colors(path: Path) -> tuple[bool, bool]:
    """Return whether the first image of a file has colours, and pixels that are transparent."""
    with opened_picture(path) as picture:
        if picture.mode.startswith("I") or picture.mode == "F":
            return False, False
        pixels = np.asarray(picture.convert("RGBA"))
        return bool((pixels[..., :3] != pixels[..., :1]).any()), bool((pixels[..., 3] < 255).any())


def find_range(paths: Sequence[Path]) -> Range | None:
    """Find the values of deep images that become black and white; None if none is deep.

    Integers from 0 on: from 0 to the highest value of 8, 10, 12, 14, 16, 24 or 32 bits, whichever
    is the first that holds all values. Floating values between 0 and 1: from 0 to 1. Others: their
    lowest and highest value, and half of the distance as a margin on either side. At most 50 files
    and 50 pages of each are looked at, evenly spread.
    """
    lows, highs, is_whole = [], [], True
    for path in spread(paths):
        with suppress(OSError):
            chosen = set(spread(range(count_pages(path))))
            for number, (picture, _) in enumerate(read_pages(path)):
                if not is_deep(picture):
                    break
                if number not in chosen:
                    continue
                values = stored_values(picture, path)
                values = values[np.isfinite(values)]
                is_whole &= values.dtype.kind != "f"
                if values.size:
                    lows.append(float(values.min()))
                    highs.append(float(values.max()))
    if not lows:
        return None
    low, high = min(lows), max(highs)
    if is_whole and low >= 0:
        bits = next(bits for bits in _BIT_DEPTHS if high < 2**bits or bits == _BIT_DEPTHS[-1])
        return 0.0, float(2 ** (bits if high else 16) - 1)
    if not is_whole and low >= 0 and high <= 1:
        return 0.0, 1.0
    margin = (high - low) / 2 or 1.0
    return low - margin, high + margin


def describe_range(value_range: Range) -> str:
    """Describe a range in messages."""
    low, high = value_range
    bits = math.log2(high + 1) if low == 0 and high > 1 else 0.5
    depth = f", as of {bits:.0f} bits" if bits == round(bits) else ""
    return f"from {low:g} (black) to {high:g} (white){depth}"


def to_bytes(values: NDArray[Any], value_range: Range) -> tuple[NDArray[np.uint8], bool]:
    """Scale stored values to 0 to 255, and tell whether any lay outside of the range."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise OSError("it holds NaN or infinity")
    low, high = value_range
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    is_outside = bool((scaled < -0.5).any() or (scaled > 255.5).any())
    return np.rint(scaled.clip(0, 255)).astype(np.uint8), is_outside


def convert(picture: Any, size: tuple[int, int] | None, color: bool) -> NDArray[np.uint8]:
    """Convert an upright picture of 8 bits to grey or colour, and resize it by averaging."""
    from PIL import Image

    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode in ("1", "LA") else "RGB")
    picture = picture.convert("RGB" if color else "L")
    if size is not None:
        picture = picture.resize(size[::-1], Image.Resampling.BOX)
    return np.array(picture)


def cut(image: NDArray[Any], box: tuple[int, int, int, int], name: Any) -> NDArray[Any]:
    """Crop an image or mask to a box: left, top, width and height, in pixels."""
    left, top, width, height = box
    if left + width > image.shape[1] or top + height > image.shape[0]:
        raise ValueError(
            f"{name} has {pixels_of(image.shape)}, but the crop needs at least {left + width} x "
            f"{top + height}."
        )
    return image[top : top + height, left : left + width]


def normalized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring the intensities of an image to the mean 128 and the standard deviation 40.

    Colours of a picture are scaled together. Values beyond 0 and 255 are clipped.
    """
    values = image.astype(np.float32)
    spread = max(float(values.std()), 1.0)  # a blank image stays blank
    scaled = 128 + 40 / spread * (values - values.mean())
    return np.asarray(np.rint(scaled).clip(0, 255), np.uint8)


# --- masks ---------------------------------------------------------------------------------------


def read_marks(path: Path, *, above: int = 0) -> list[NDArray[np.bool_]]:
    """Read the masks in a file: True for pixels that are marked, whatever the kind of file.

    A pixel is marked if any of its values differs from 0, in 8, 16 or 32 bits, colours or
    floating numbers; NaN is not. With a palette its colour counts, or its index if all colours are
    black. Transparent pixels are not marked, and where only transparency differs, all others
    are. In a lossy file, values above half of the largest are marked. ``above`` raises the
    value that a pixel must exceed.
    """
    marks = []
    with path.open("rb") as file:
        head = file.read(2**12)
    for picture, _ in read_pages(path):
        is_lossy = picture.format in ("JPEG", "MPO") or (
            picture.format == "WEBP" and b"VP8 " in head
        )
        marks.append(_marked(picture, path, above=above, is_lossy=is_lossy))
    return marks


def is_lossy(path: Path) -> bool:
    """Return whether a file is lossy, so that its values are not what was drawn."""
    with path.open("rb") as file:
        head = file.read(2**12)
    return head.startswith(b"\xff\xd8\xff") or (head[8:12] == b"WEBP" and b"VP8 " in head)


def _marked(picture: Any, path: Path, *, above: int, is_lossy: bool) -> NDArray[np.bool_]:
    if is_deep(picture):
        values = np.nan_to_num(stored_values(picture, path))
        marked = values != 0 if above == 0 else values > above
        if picture.mode in ("LA", "RGBA") and values.ndim == 3 and values.shape[2] in (2, 4):
            marked = marked[..., :-1]
        return np.asarray(marked.any(axis=2) if marked.ndim == 3 else marked)
    turned = upright(picture)
    has_alpha = turned.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in turned.info
    pixels = np.asarray(turned.convert("RGBA" if has_alpha else "RGB"))
    colors = pixels[..., :3].max(axis=2)
    least = max(above, _LOSSY_NOISE, int(colors.max()) // 2) if is_lossy else above
    marked = colors > least
    if has_alpha:
        opaque = pixels[..., 3] > 0
        marked = marked & opaque
        if not marked.any() and not opaque.all():
            marked = opaque
    elif turned.mode == "P" and not marked.any():
        marked = np.asarray(turned) != 0
    return np.asarray(marked)
