"""Image files: their pages, their depths, and what counts as marked in a mask."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest

from skavid.video import load_frames, read_frames
from skavid.video.decoding import is_picture, is_video
from skavid.video.pictures import count_pages, find_range, read_marks

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

MARKED = np.zeros((12, 16), dtype=bool)
MARKED[3:7, 5:9] = True


def gradient(highest, dtype=np.uint16):
    return np.linspace(0, highest, 256).reshape(16, 16).astype(dtype)


def save_png_of_16_bits(path, values):
    """Write colours of 16 bits by hand, as Pillow cannot."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + name + data)
            file.write(struct.pack(">I", zlib.crc32(name + data)))


# --- depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_fewer_bits_in_files_of_16_bits_fill_the_whole_range(tmp_path, bits, suffix):
    Image.fromarray(gradient(2**bits - 1)).save(tmp_path / f"0.{suffix}")
    with pytest.warns(UserWarning, match=rf"\(white\), as of {bits} bits"):
        (frame,) = read_frames(tmp_path)
    np.testing.assert_allclose(frame.image.ravel(), np.arange(256), atol=1)


def test_one_range_serves_all_images_of_a_folder(tmp_path):
    for index, highest in enumerate((100, 4000, 900)):
        Image.fromarray(gradient(highest)).save(tmp_path / f"{index}.png")
    with pytest.warns(UserWarning, match="as of 12 bits") as told:
        frames = load_frames(tmp_path).frames
    assert len(told) == 1
    assert frames.max(axis=(1, 2)).tolist() == [round(h * 255 / 4095) for h in (100, 4000, 900)]


def test_a_given_range_is_used_and_what_exceeds_it_is_told(tmp_path):
    Image.fromarray(gradient(2000)).save(tmp_path / "0.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (frame,) = read_frames(tmp_path, value_range=(0, 4000))
    assert frame.image.max() == 128
    with pytest.warns(UserWarning, match="values from 0 to 2000, but images are read from 0"):
        (frame,) = read_frames(tmp_path, value_range=(0, 1000))
    assert frame.image.max() == 255


@pytest.mark.parametrize("suffix", ["png", "tif", "planes"])
def test_colours_of_12_bits_in_16_keep_their_levels(tmp_path, suffix):
    values = np.stack([gradient(4095), gradient(2000), gradient(0)], axis=2)
    if suffix == "png":
        save_png_of_16_bits(tmp_path / "0.png", values)
    elif suffix == "planes":
        planes = np.moveaxis(values, 2, 0)
        tifffile.imwrite(tmp_path / "0.tif", planes, photometric="rgb", planarconfig="separate")
    else:
        tifffile.imwrite(tmp_path / "0.tif", values, photometric="rgb")
    with pytest.warns(UserWarning, match="as of 12 bits"):
        (frame,) = read_frames(tmp_path, color=True)
    np.testing.assert_allclose(frame.image, values * (255 / 4095), atol=0.51)


@pytest.mark.parametrize(
    ("values", "value_range"),
    [
        (gradient(1, np.float32), (0, 1)),
        (gradient(200, np.float32) - 100, (-200, 200)),  # half of 200 as a margin on either side
        (gradient(200, np.int16) - np.int16(100), (-200, 200)),
        (gradient(200, np.int32) - 100, (-200, 200)),
        (gradient(1000, np.int32), (0, 1023)),
        ((gradient(200, np.int16) - 100).astype(np.int8), (-200, 200)),
        (gradient(1, np.float64), (0, 1)),
        (gradient(1, np.float16), (0, 1)),
        (gradient(1000, np.int64), (0, 1023)),
    ],
)
def test_signed_and_floating_values_have_a_range(tmp_path, values, value_range):
    tifffile.imwrite(tmp_path / "0.tif", values)
    assert find_range([tmp_path / "0.tif"]) == value_range
    with pytest.warns(UserWarning, match="are read from"):
        (frame,) = read_frames(tmp_path)
    low, high = value_range
    expected = (values.astype(float) - low) * 255 / (high - low)
    np.testing.assert_allclose(frame.image, expected, atol=0.51)


def test_images_of_8_bits_have_no_range(tmp_path):
    Image.fromarray(gradient(255, np.uint8)).save(tmp_path / "0.png")
    assert find_range([tmp_path / "0.png"]) is None


# --- pages ---------------------------------------------------------------------------------------


def write_pages(path, n=5, **options):
    pages = [Image.fromarray(np.full((12, 16), 40 * k, np.uint8)) for k in range(n)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


def test_a_preview_is_no_page(tmp_path):
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((32, 32), np.uint8))
        file.write(np.zeros((16, 16), np.uint8), subfiletype=1)
        file.write(np.zeros((32, 32), np.uint8))
    assert count_pages(path) == 2
    assert load_frames(path).frames.shape == (2, 32, 32)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("gif", {}), ("webp", {"lossless": True}), ("png", {})],
)
def test_an_animation_is_a_video_with_its_own_times(tmp_path, suffix, options):
    path = write_pages(
        tmp_path / f"moving.{suffix}", duration=[100, 300, 200, 100, 100], **options
    )
    assert is_video(path)
    video = load_frames(path)
    assert video.frames.shape == (5, 12, 16)
    np.testing.assert_allclose(video.times, [0, 0.1, 0.4, 0.6, 0.7])
    assert [int(frame.mean()) for frame in video.frames] == pytest.approx(
        [0, 40, 80, 120, 160], abs=1
    )


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "jpg", "bmp"])
def test_a_still_image_is_no_video_whatever_its_name(tmp_path, suffix):
    Image.fromarray(gradient(255, np.uint8)).save(tmp_path / f"0.{suffix}")
    path = (tmp_path / f"0.{suffix}").rename(tmp_path / "0.mp4")
    assert is_picture(path)
    assert not is_video(path)


def test_text_music_and_arrays_are_no_videos(tmp_path):
    (tmp_path / "notes.txt").write_text("frame 1: a person\n" * 99)
    (tmp_path / "code.ts").write_text("const frames: number[] = [];\n" * 99)
    (tmp_path / "table.csv").write_text("a,b\n" * 99)
    np.save(tmp_path / "images.npy", np.zeros((9, 8, 8)))
    np.savez(tmp_path / "images.npz", np.zeros((9, 8, 8)))
    (tmp_path / "noise.bin").write_bytes(np.random.default_rng(0).bytes(10**5))
    (tmp_path / "empty").touch()
    assert not any(is_video(path) or is_picture(path) for path in tmp_path.iterdir())


# --- masks ---------------------------------------------------------------------------------------


def palette_mask(colors):
    mask = Image.fromarray(MARKED.astype(np.uint8), "L").convert("P")
    mask.putdata(MARKED.astype(np.uint8).ravel().tolist())
    mask.putpalette(colors)
    return mask


def rgba(marked, other):
    return Image.fromarray(np.where(MARKED[..., None], marked, other).astype(np.uint8), "RGBA")


MASKS = {
    "1 bit": ("png", lambda: Image.fromarray(MARKED)),
    "ones": ("png", lambda: Image.fromarray(MARKED.astype(np.uint8))),
    "ids of 16 bits": ("png", lambda: Image.fromarray(3 * MARKED.astype(np.uint16))),
    "ids of 32 bits": ("tif", lambda: Image.fromarray(MARKED.astype(np.int32))),
    "negative": ("tif", lambda: Image.fromarray(-MARKED.astype(np.int32))),
    "floating": ("tif", lambda: Image.fromarray(0.25 * MARKED.astype(np.float32))),
    "NaN elsewhere": (
        "tif", lambda: Image.fromarray(np.where(MARKED, 1, np.nan).astype(np.float32)),
    ),
    "a colour": ("png", lambda: Image.fromarray(MARKED[..., None] * np.uint8([0, 0, 1]))),
    "a palette": ("png", lambda: palette_mask([0, 0, 0, 128, 0, 0])),
    "a palette, white first": ("png", lambda: palette_mask([0, 0, 0, 1, 0, 0])),
    "a palette of black": ("png", lambda: palette_mask([0, 0, 0, 0, 0, 0])),
    "opaque": ("png", lambda: rgba([255, 0, 0, 255], [0, 0, 0, 255])),
    "painted on nothing": ("png", lambda: rgba([0, 255, 0, 255], [255, 255, 255, 0])),
    "painted black on nothing": ("png", lambda: rgba([0, 0, 0, 255], [255, 255, 255, 0])),
    "webp": ("webp", lambda: Image.fromarray(MARKED.astype(np.uint8))),
    "gif": ("gif", lambda: Image.fromarray(MARKED.astype(np.uint8))),
}  # fmt: skip


@pytest.mark.parametrize("kind", MASKS)
def test_whatever_is_not_0_is_marked(tmp_path, kind):
    suffix, make = MASKS[kind]
    path = tmp_path / f"mask.{suffix}"
    make().save(path, **({"lossless": True} if suffix == "webp" else {}))
    (marked,) = read_marks(path)
    np.testing.assert_array_equal(marked, MARKED)


def test_colours_of_16_bits_with_small_values_are_marked(tmp_path):
    path = tmp_path / "mask.png"
    save_png_of_16_bits(path, MARKED[..., None] * np.uint16([0, 1, 0]))
    np.testing.assert_array_equal(read_marks(path)[0], MARKED)


@pytest.mark.parametrize("value", [128, 255])
def test_the_noise_of_a_jpeg_is_not_marked(tmp_path, value):
    path = tmp_path / "mask.jpg"
    Image.fromarray(np.kron(value * MARKED, np.ones((8, 8))).astype(np.uint8)).save(path)
    marked = np.kron(MARKED, np.ones((8, 8))) > 0
    assert (read_marks(path)[0] != marked).mean() < 0.001
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    assert not read_marks(path)[0].any()
