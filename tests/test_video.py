"""Videos are written and read back, intact and damaged; overlays are decoded and checked."""

from __future__ import annotations

import os
import re
import sys
import threading
import tracemalloc
import warnings
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skavid.video import (
    BrokenVideoError,
    Frame,
    OverlayWriter,
    count_frames,
    draw_overlay,
    load_frames,
    read_frames,
    read_pairs,
    write_overlay,
)
from skavid.video.frames import picture_shape, pixel_aspect, read_sized

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)


def write_video(
    path, frames, *, codec="ffv1", pixels=None, fps=10, times=None, options=None, **coding
):
    """Encode frames, losslessly by default; times in hundredths of a second."""
    color = frames.ndim == 4
    pixels = pixels or ("bgr0" if color else "gray")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=coding)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if color else "gray")
            if times is not None:
                frame.pts, frame.time_base = times[index], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_video_with_sound(path, frames, *, seconds):
    """Encode frames at 10 per second with a silent track of another length."""
    codec, pixels = ("libx264", "yuv420p") if path.suffix == ".mp4" else ("ffv1", "gray")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = pixels
        sound = container.add_stream("aac" if path.suffix == ".mp4" else "pcm_s16le", rate=8000)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode(None))
        for index in range(seconds * 8):
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1000), np.int16), format="s16", layout="mono"
            )
            silence.rate, silence.pts = 8000, 1000 * index
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def film(n=12, size=(32, 48)):
    """Return frames whose grey level encodes their number, with noise."""
    noise = RNG.integers(0, 40, size=(n, *size))
    return (noise + 200 // n * np.arange(n)[:, None, None]).astype(np.uint8)


# --- intact videos -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["avi", "mkv", "nut"])
def test_a_lossless_video_is_read_as_it_was_written(tmp_path, kind):
    frames = film()
    write_video(tmp_path / f"film.{kind}", frames)
    found = list(read_frames(tmp_path / f"film.{kind}"))
    np.testing.assert_array_equal([frame.image for frame in found], frames)
    assert [frame.index for frame in found] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in found], np.arange(12) / 10, atol=1e-3)


def test_frames_of_an_mp4_with_predicted_frames_come_in_the_order_of_time(tmp_path):
    frames = np.full((24, 64, 96), 20, np.uint8) + 8 * np.arange(24, dtype=np.uint8)[:, None, None]
    path = write_video(tmp_path / "film.mp4", frames, codec="libx264", pixels="yuv420p")
    video = load_frames(path)
    np.testing.assert_allclose(video.frames.mean(axis=(1, 2)), frames.mean(axis=(1, 2)), atol=3.5)
    np.testing.assert_allclose(video.times, np.arange(24) / 10, atol=1e-3)


def test_colour_is_kept_on_request_and_becomes_luma_otherwise(tmp_path):
    frames = RNG.integers(0, 255, (3, 16, 20, 3)).astype(np.uint8)
    path = write_video(tmp_path / "film.mkv", frames)
    np.testing.assert_array_equal(load_frames(path, color=True).frames, frames)
    luma = frames @ np.array([0.299, 0.587, 0.114])
    assert abs(load_frames(path).frames.astype(float) - luma).mean() < 8


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_frames_are_resized_by_the_mean_of_what_they_cover(tmp_path, kind):
    frames = film(3)
    if kind == "video":
        source = write_video(tmp_path / "film.mkv", frames)
    else:
        source = tmp_path
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / f"{index}.png")
    small = load_frames(source, size=(8, 12)).frames
    means = frames.reshape(3, 8, 4, 12, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(small, means, atol=1.01)


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_pairs_hold_the_same_frame_for_a_model_and_in_its_own_size(tmp_path, kind):
    frames = RNG.integers(0, 256, size=(4, 32, 48, 3)).astype(np.uint8)
    source = tmp_path
    if kind == "video":
        source = write_video(tmp_path / "film.mkv", frames)
    else:
        for index, image in enumerate(frames):
            Image.fromarray(image).save(tmp_path / f"{index}.png")
    few, whole = zip(*read_pairs(source, size=(8, 12)), strict=True)
    for ours, theirs in zip(few, read_frames(source, size=(8, 12)), strict=True):
        assert ours[1:] == theirs[1:]
        np.testing.assert_array_equal(ours.image, theirs.image)
    np.testing.assert_array_equal(whole, load_frames(source, color=True).frames)


def test_frames_are_counted_without_decoding_them(tmp_path):
    path = write_video(tmp_path / "film.mp4", film(7), codec="libx264", pixels="yuv420p")
    assert count_frames(path) == 7
    (tmp_path / "text.mp4").write_text("no video")
    assert count_frames(tmp_path / "text.mp4") is None
    for index in range(3):
        Image.fromarray(film(1)[0]).save(tmp_path / f"{index}.png")
    assert count_frames(tmp_path) == 3
    assert count_frames(tmp_path / "0.png") == 1


def test_times_of_a_variable_rate_are_kept(tmp_path):
    times = [0, 4, 12, 13, 40]
    path = write_video(tmp_path / "film.mkv", film(5), times=times)
    found = [frame.time for frame in read_frames(path)]
    np.testing.assert_allclose(found, np.array(times) / 100, atol=2e-3)


@pytest.mark.parametrize("kind", ["avi", "mkv", "mp4"])
@pytest.mark.parametrize("seconds", [1, 4])
def test_sound_that_is_shorter_or_longer_breaks_nothing(tmp_path, kind, seconds):
    path = write_video_with_sound(tmp_path / f"film.{kind}", film(20), seconds=seconds)
    assert len(list(read_frames(path))) == 20


@pytest.mark.parametrize("kind", ["mkv", "mp4"])
def test_a_last_frame_that_stands_long_breaks_nothing(tmp_path, kind):
    coded = {"codec": "libx264", "pixels": "yuv420p"} if kind == "mp4" else {}
    times = [0, 4, 8, 300, 304, 900]
    path = write_video(tmp_path / f"film.{kind}", film(6), times=times, **coded)
    np.testing.assert_allclose(load_frames(path).times, np.array(times) / 100, atol=2e-3)


def test_a_video_marked_as_turned_is_turned_upright(tmp_path):
    image = np.zeros((1, 32, 48), np.uint8)
    image[0, :16] = 200
    path = write_video(tmp_path / "film.mp4", image, codec="libx264", pixels="yuv420p")
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    clockwise = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30], ">i4")
    content[matrix : matrix + 36] = clockwise.tobytes()
    path.write_bytes(content)
    upright = load_frames(path).frames[0]
    assert upright.shape == (48, 32)
    assert upright[:, :12].mean() < 40 < 160 < upright[:, 20:].mean()
    assert load_frames(path, size=(12, 8)).frames.shape == (1, 12, 8)


@pytest.mark.parametrize("begins", [-10, 0, 7])
@pytest.mark.parametrize("n_between", [0, 3])
def test_an_edit_list_cuts_what_it_hides_and_times_begin_at_0(tmp_path, begins, n_between):
    """Players show an mp4 from time 0 on; what begins later waits in its edit list."""
    path = tmp_path / "edited.mp4"
    times = [10 * (begins + index) for index in range(30)]
    levels = np.arange(0, 240, 8, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None], (30, 32, 48))
    write_video(
        path, frames, codec="libx264", pixels="yuv420p", times=times, g="10", bf=str(n_between)
    )  # fmt: skip
    video = load_frames(path)
    shown = levels[max(0, -begins) :]
    # Frames between that depend on hidden ones may be missing, too.
    assert 0 <= len(shown) - len(video.frames) <= (n_between if begins < 0 else 0)
    assert video.frames.shape[1:] == (32, 48)
    np.testing.assert_allclose(video.times, np.arange(len(video.times)) / 10, atol=1e-6)
    np.testing.assert_allclose(
        video.frames[:, 0, 0].astype(int), shown[len(shown) - len(video.frames) :], atol=3
    )


@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(8, 9), Fraction(1)])
def test_an_overlay_of_pixels_that_are_not_square_has_the_proportions_of_its_source(
    tmp_path, aspect
):
    source, overlay = tmp_path / "pal.mp4", tmp_path / "odd.mp4"
    with OverlayWriter(source, pixel_aspect=float(aspect)) as writer:
        for image in film(4, (32, 48)):
            writer.write(image)
    assert pixel_aspect(source) == pytest.approx(float(aspect))
    assert load_frames(source).frames.shape == (4, 32, 48)  # as they are stored
    write_overlay(overlay, load_frames(source).frames, pixel_aspect=pixel_aspect(source))
    with av.open(str(source)) as one, av.open(str(overlay)) as other:
        shown = [c.streams.video[0].display_aspect_ratio for c in (one, other)]
    assert shown[0] == shown[1] == Fraction(48, 32) * aspect


def test_a_stream_that_is_joined_between_key_frames_begins_at_the_next(tmp_path):
    path = tmp_path / "film.ts"
    write_video(
        path, film(40), codec="libx264", pixels="yuv420p", g="10", bf="0", sc_threshold="0"
    )
    content = path.read_bytes()
    path.write_bytes(content[len(content) * 3 // 8 // 188 * 188 :])
    assert len(list(read_frames(path))) == 20


def test_a_video_is_read_from_a_network_address(tmp_path):
    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    frames = film()
    write_video(tmp_path / "film.mkv", frames)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        video = load_frames(f"http://127.0.0.1:{server.server_port}/film.mkv", timeout=5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    np.testing.assert_array_equal(video.frames, frames)


def test_frames_are_read_one_by_one(tmp_path):
    frames = np.broadcast_to(film(1, (120, 160)), (600, 120, 160))
    path = write_video(tmp_path / "film.mkv", frames, codec="mpeg4", pixels="yuv420p")
    tracemalloc.start()
    n = sum(1 for _ in read_frames(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 600
    assert peak < 50 * 120 * 160


def test_a_file_is_closed_with_its_generator(tmp_path):
    path = write_video(tmp_path / "film.mkv", film())
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    frames = read_frames(path)
    next(frames)
    frames.close()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_loaded_frames_go_to_a_file_that_is_mapped(tmp_path):
    frames = film()
    path = write_video(tmp_path / "film.mkv", frames)
    video = load_frames(path, out=tmp_path / "film.npy")
    assert isinstance(video.frames, np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "film.npy"), frames)
    assert len(video.times) == 12


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tif", "png", "bmp", "PNG", "tiff"])
def test_pictures_come_in_natural_order(tmp_path, kind):
    for number in (1, 2, 9, 10, 11, 100):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(tmp_path / f"img{number}.{kind}")
    (tmp_path / ".img3.png").write_bytes(b"hidden")
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(read_frames(tmp_path, fps=4))
    assert [int(frame.image[0, 0]) for frame in found] == [1, 2, 9, 10, 11, 100]
    assert [frame.time for frame in found] == [0, 0.25, 0.5, 0.75, 1, 1.25]


def test_pictures_are_read_in_colour_on_request(tmp_path):
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :12] = (250, 20, 60)
    Image.fromarray(image).save(tmp_path / "1.png")
    Image.fromarray(image).save(tmp_path / "2.jpg", quality=95, subsampling=0)
    Image.fromarray(image[..., 0]).save(tmp_path / "3.bmp")
    color = load_frames(tmp_path, color=True).frames
    np.testing.assert_array_equal(color[0], image)
    np.testing.assert_allclose(color[1], image, atol=8)
    np.testing.assert_array_equal(color[2], image[..., :1].repeat(3, axis=2))
    assert load_frames(tmp_path).frames[0, 0, 0] == round(0.299 * 250 + 0.587 * 20 + 0.114 * 60)


def test_pictures_of_16_bits_keep_their_range(tmp_path):
    deep = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert next(read_frames(tmp_path)).image.tolist() == [[0, 1, 100, 255]]


def test_a_tif_may_hold_several_frames(tmp_path):
    pages = [Image.fromarray(frame) for frame in film(3)]
    pages[0].save(tmp_path / "film.tif", save_all=True, append_images=pages[1:])
    assert [frame.index for frame in read_frames(tmp_path / "film.tif")] == [0, 1, 2]


def test_pictures_of_two_sizes_are_told(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(tmp_path / "2.png")
    message = (
        f"{tmp_path / '2.png'} has 5 x 6 pixels, but 1.png has 5 x 4 pixels; give "
        "size=(height, width) to resize both."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_frames(tmp_path)
    assert load_frames(tmp_path, size=(2, 2)).frames.shape == (2, 2, 2)


def test_a_broken_picture_is_left_out_and_told(tmp_path):
    for number in range(4):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    message = f"{re.escape(str(tmp_path))} is broken after 2 frames, at 0.08 s: 2.png cannot be"
    message += r" read, .*; 1 of 4 frames cannot be read\. Get a new copy, or "
    with pytest.raises(BrokenVideoError, match=message):
        load_frames(tmp_path)
    with pytest.warns(UserWarning, match=message):
        video = load_frames(tmp_path, errors="warn")
    assert video.frames[:, 0, 0].tolist() == [0, 1, 3]
    assert video.times.tolist() == [0, 0.04, 0.12]


# --- broken videos -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "codec"), [("mkv", "ffv1"), ("avi", "mjpeg"), ("avi", "ffv1")])
def test_a_truncated_video_gives_its_frames_and_says_where_it_ends(tmp_path, kind, codec):
    frames = film(40)
    pixels = "yuvj420p" if codec == "mjpeg" else None
    path = write_video(tmp_path / f"film.{kind}", frames, codec=codec, pixels=pixels)
    whole = len(list(read_frames(path)))
    assert whole == 40
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    given = []
    message = rf"{re.escape(str(path))} is broken after (\d+) frames, at [\d.]+ s: .*; "
    with pytest.raises(BrokenVideoError, match=message) as caught:
        given.extend(frame.image for frame in read_frames(path))
    assert 10 < len(given) < 30
    assert re.search(message, str(caught.value))[1] == str(len(given))
    lost = f"{40 - len(given)} of 40 frames cannot be read. Get a new copy, or read the intact "
    assert f"{lost}frames with load_frames(..., errors='warn')." in str(caught.value)
    if codec == "ffv1":
        np.testing.assert_array_equal(given, frames[: len(given)])
    with pytest.warns(UserWarning, match="is broken after"):
        assert len(load_frames(path, errors="warn").frames) == len(given)


def test_reading_goes_on_behind_a_frame_that_is_damaged(tmp_path):
    frames = film(30)
    path = write_video(tmp_path / "film.mov", frames[..., None].repeat(3, 3), codec="png",
                       pixels="rgb24")  # fmt: skip
    content = bytearray(path.read_bytes())
    at = [found.start() for found in re.finditer(b"IHDR", content)][12]
    content[at : at + 200] = bytes(200)
    path.write_bytes(content)
    message = (
        f"{path} is broken after 12 frames, at 1.20 s: Invalid data found when processing input; "
        "1 of 30 frames cannot be read. Get a new copy, or read the intact frames with "
        "load_frames(..., errors='warn')."
    )
    with pytest.raises(BrokenVideoError, match=f"^{re.escape(message)}$"):
        load_frames(path)
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        video = load_frames(path, errors="warn")
    kept = np.delete(np.arange(30), 12)
    np.testing.assert_allclose(video.times, kept / 10, atol=1e-3)
    np.testing.assert_array_equal(video.frames, frames[kept])


def test_frames_predicted_from_a_damaged_one_are_left_out(tmp_path):
    coded = {"codec": "libx264", "pixels": "yuv420p", "g": "10", "bf": "0"}
    coded["sc_threshold"] = "0"
    path = write_video(tmp_path / "film.mp4", film(40), **coded)
    with av.open(str(path)) as container:
        at = [packet.pos for packet in container.demux(video=0)][13]
    content = bytearray(path.read_bytes())
    content[at : at + 60] = bytes(60)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"after 13 frames, at 1.30 s: .*; 7 of 40 frames cannot"):
        video = load_frames(path, errors="warn")
    expected = np.delete(np.arange(40), np.arange(13, 20)) / 10
    np.testing.assert_allclose(video.times, expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_a_truncated_video_with_sound_is_told(tmp_path, kind):
    path = write_video_with_sound(tmp_path / f"film.{kind}", film(40), seconds=4)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BrokenVideoError, match=r"its header declares 4\.00 s|cut off"):
        load_frames(path)


def test_an_mp4_without_its_index_is_broken_from_the_beginning(tmp_path):
    path = write_video(tmp_path / "film.mp4", film(40), codec="libx264", pixels="yuv420p")
    content = path.read_bytes()
    index = content.index(b"moov")
    for cut, reason in [
        (index - 100, "its index, which comes last, is missing"),
        (index + 100, "its index is damaged or cut off"),
        (content.index(b"mdhd") + 60, "its index is damaged or cut off"),
    ]:
        path.write_bytes(content[:cut])
        message = f"{path} is broken: {reason}. Get a new copy."
        for errors in ("raise", "warn"):
            with pytest.raises(BrokenVideoError, match=f"^{re.escape(message)}$"):
                load_frames(path, errors=errors)


@pytest.mark.parametrize("out", [None, "film.npy"])
def test_a_warning_points_to_the_call(tmp_path, out):
    path = write_video(tmp_path / "film.mkv", film(40))
    path.write_bytes(path.read_bytes()[:20000])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_frames(path, errors="warn", out=out and tmp_path / out)
    assert [warning.filename for warning in caught] == [__file__]


def test_nothing_is_written_of_a_broken_video_unless_asked(tmp_path):
    path = write_video(tmp_path / "film.mkv", film(40))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    out = tmp_path / "film.npy"
    out.write_bytes(b"old")
    with pytest.raises(BrokenVideoError):
        load_frames(path, out=out)
    assert out.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"film.mkv", "film.npy"}


@given(cut=st.integers(0, 60), seed=st.integers(0, 9))
def test_whatever_happened_to_a_file_its_frames_are_true_or_an_error_tells(tmp_path, cut, seed):
    rng = np.random.default_rng(seed)
    frames = film(20)
    path = write_video(tmp_path / "film.mkv", frames, options={})
    content = bytearray(path.read_bytes())
    for at in rng.integers(len(content) // 4, len(content), cut):
        content[at] = rng.integers(256)
    path.write_bytes(content)
    told = str(path)
    try:
        for frame in read_frames(path):
            assert frame.image.shape == (32, 48)
    except (BrokenVideoError, ValueError) as error:
        told = str(error)
    assert str(path) in told


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda p: None, FileNotFoundError, "There is no video and no folder {p}."),
        (lambda p: p.mkdir(), ValueError, "{p} holds no image (.bmp, .gif, .jpeg, .jpg, .png, "
         ".tif, .tiff, .webp), but nothing; give a folder of images or the path of a video."),
        (lambda p: p.write_bytes(b"no video at all" * 99), ValueError,
         "{p} is no video that FFmpeg can read; give a video, or a folder of images."),
    ],
)  # fmt: skip
def test_what_is_no_video_is_told(tmp_path, make, error, told):
    path = tmp_path / "film.mkv"
    make(path)
    with pytest.raises(error, match=f"^{re.escape(told.format(p=path))}$"):
        load_frames(path)


@pytest.mark.parametrize("size", [(4,), (0, 3), (4.5, 3), ("4", "3")])
def test_a_size_that_is_no_size_is_refused_at_the_call(tmp_path, size):
    message = f"size must be (height, width), two positive integers. Got {size!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_frames(tmp_path, size=size)


def test_a_camera_that_is_not_there_is_told_without_a_password():
    with pytest.raises(OSError, match=r"^Camera .*cannot be opened"):
        next(read_frames(97))
    with pytest.raises(OSError, match=r"^rtsp://127.0.0.1:1/x cannot be opened") as caught:
        next(read_frames("rtsp://user:secret@127.0.0.1:1/x", timeout=1))
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="has no end"):
        load_frames(0)


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("av", "video", lambda p: list(read_frames(p / "film.mkv"))),
        ("PIL", "image", lambda p: list(read_frames(p))),
        ("av", "video", lambda p: OverlayWriter(p / "seen.mp4")),
    ],
)
def test_a_missing_library_is_told_with_its_extra(tmp_path, monkeypatch, module, extra, call):
    write_video(tmp_path / "film.mkv", film(2))
    Image.fromarray(film(1)[0]).save(tmp_path / "1.png")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f"pip install 'skavid[{extra}]'.")):
        call(tmp_path)


# --- overlays ------------------------------------------------------------------------------------


def test_an_overlay_outlines_masks_heats_the_irregular_and_plots_scores(tmp_path):
    frames = np.full((10, 40, 60), 100, dtype=np.uint8)
    masks = np.zeros(frames.shape, dtype=bool)
    masks[5:, 10:25, 20:45] = True
    scores = np.where(np.arange(10) >= 5, -1.0, 2.0)
    path = tmp_path / "seen.mp4"
    write_overlay(path, frames, masks=masks, regularity=1 - masks * 1.0, scores=scores, zoom=2)
    video = load_frames(path, color=True)
    assert video.frames.shape == (10, 80 + 24, 120, 3)
    calm, odd = video.frames[2].astype(int), video.frames[8].astype(int)
    grey = odd.sum(axis=2)
    assert grey[21:49, 40].mean() - grey[2:10, 2:10].mean() > 100  # the outline is bright
    tinted = odd[34, 64]
    assert abs(calm[:78] - 100).max() < 8  # regular: only compressed
    assert min(tinted[0], tinted[2]) > tinted[1] + 30
    strip = odd[80:]
    assert strip[:, -6:, 0].mean() > strip[:, -6:, 2].mean() + 20  # orange where irregular
    assert (strip[:, :80].std(axis=(0, 1)) < 60).all()


@pytest.mark.parametrize("shape", [(40, 60), (240, 320), (480, 640)])
def test_a_note_is_written_into_the_strip_of_its_frame_alone(tmp_path, shape):
    path = tmp_path / "seen.mp4"
    with OverlayWriter(path) as writer:
        for note in ("", "blank or covered", ""):
            writer.write(np.zeros(shape, np.uint8), score=1.0, note=note)
    before, noted, after = load_frames(path, color=True).frames.astype(int)
    assert abs(noted - before)[: shape[0]].max() < 8  # the image is as it was
    left = np.abs(noted - before)[shape[0] : -4, : shape[1] // 2].max(axis=2)
    assert (left > 60).mean() > 0.02
    assert abs(noted - before)[-(shape[0] // 12) :].max() < 60
    assert abs(after - before)[..., :-6, :].max() < 60


def test_a_note_may_hold_any_character(tmp_path):
    with OverlayWriter(tmp_path / "seen.mp4") as writer:
        for note in ("Tür 3", "\u5165\u53e3 \U0001f6aa", "\udcff"):
            writer.write(np.zeros((64, 96), np.uint8), score=1.0, note=note)


def test_a_picture_is_drawn_on_around_its_mask_alone():
    image = RNG.integers(0, 256, size=(20, 30, 3)).astype(np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:12, 8:20] = True
    drawn = draw_overlay(image, mask=mask)
    changed = (drawn != image).any(axis=2)
    near = np.zeros_like(mask)
    near[4:13, 7:21] = True
    near[6:11, 9:19] = False
    assert not changed[~near].any()
    assert (drawn[5, 8:20] == 255).all()
    assert (drawn[4, 8:20] == 0).all()
    np.testing.assert_array_equal(draw_overlay(image), image)


@given(opacity=st.floats(0, 1), seed=st.integers(0, 9))
def test_regular_pixels_stay_as_they_are_and_irregular_ones_turn_magenta(opacity, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    regularity = rng.choice([0.0, 0.25, 1.0, np.nan], (6, 8))
    drawn = draw_overlay(image, regularity=regularity, opacity=opacity)
    regular = np.isnan(regularity) | (regularity == 1)
    np.testing.assert_array_equal(drawn[regular], image[regular])
    share = opacity * (1 - regularity[~regular, None])
    expected = (1 - share) * image[~regular] + share * [230, 0, 126]
    assert abs(drawn[~regular] - expected).max() <= 0.51


def test_an_overlay_is_what_browsers_play(tmp_path):
    path = tmp_path / "seen.mp4"
    write_overlay(path, film(5, (33, 45)), fps=29.97)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.pix_fmt == "yuv420p"
        assert (stream.height, stream.width) == (34, 46)
        assert float(stream.average_rate) == pytest.approx(29.97)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before all of it is there


def test_an_overlay_is_written_frame_by_frame_from_any_iterator(tmp_path):
    def endless():
        for index, image in enumerate(film(4)):
            yield Frame(image, index / 25, index)

    write_overlay(tmp_path / "seen.mp4", endless(), scores=iter([1.0, float("nan"), 0.0, -1.0]))
    assert len(load_frames(tmp_path / "seen.mp4").frames) == 4


def test_maps_of_another_size_are_brought_to_the_frames(tmp_path):
    mask = np.zeros((1, 8, 12), dtype=bool)
    mask[0, 4:, 6:] = True
    for name, masks in (("small", mask), ("large", mask.repeat(4, 1).repeat(4, 2))):
        write_overlay(tmp_path / f"{name}.mp4", np.full((1, 32, 48), 90, np.uint8), masks=masks)
    small, large = (load_frames(tmp_path / f"{name}.mp4").frames for name in ("small", "large"))
    np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize("grey", [10, 128, 245])
def test_pixels_that_do_not_count_are_hatched_over_dark_and_bright_footage(tmp_path, grey):
    frames = np.full((2, 64, 96), grey, dtype=np.uint8)
    ignore_mask = np.zeros((64, 96), dtype=bool)
    ignore_mask[:32] = True
    odd = np.zeros((2, 64, 96))
    seen = []
    for name, hidden in (
        ("plain", None),
        ("hatched", ignore_mask),
        ("small", ignore_mask[::4, ::4]),
    ):
        path = tmp_path / f"{name}.mp4"
        write_overlay(path, frames, regularity=odd, scores=[1, -1], ignore_mask=hidden)
        seen.append(load_frames(path, color=True).frames[-1].astype(int))
    plain, hatched, small = seen
    np.testing.assert_array_equal(hatched, small)
    assert abs(hatched - plain)[36:].mean() < 2  # what counts, and the strip, are as they were
    stripes = hatched[4:28]
    assert np.ptp(stripes, axis=2).mean() < 10  # grey: no regularity is shown
    assert np.ptp(plain[4:28], axis=2).mean() > 50
    assert stripes.std(axis=(0, 1)).min() > 20
    assert abs(stripes - grey).mean() > 25


@pytest.mark.parametrize(
    ("ignore_mask", "message"),
    [
        (
            np.zeros((64, 96)),
            "ignore_mask must be a boolean array of shape (H, W), True where pixels do not count. "
            "Got float64 of shape (64, 96); write mask > 0 for an image.",
        ),
        (np.ones((64, 96), bool), "ignore_mask leaves no pixel that counts; leave some False."),
    ],
)
def test_pixels_to_ignore_that_make_no_sense_leave_an_older_file_as_it_was(
    tmp_path, ignore_mask, message
):
    path = tmp_path / "seen.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_overlay(path, film(3), ignore_mask=ignore_mask)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["seen.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": [1.0]}, "scores has 1 rows, but there are more frames."),
        ({"scores": [1.0] * 5}, "scores has more rows than the 3 frames."),
        ({"masks": np.zeros((3, 4))}, "mask must have the shape (h, w). Got (4,)."),
    ],
)
def test_maps_that_do_not_fit_leave_an_older_file_as_it_was(tmp_path, arguments, message):
    path = tmp_path / "seen.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_overlay(path, film(3), **arguments)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["seen.mp4"]


def write_one_by_one(path, *frames):
    with OverlayWriter(path) as writer:
        for image, score in frames:
            writer.write(image, score=score)


BLACK = np.zeros((16, 16), np.uint8)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            [(BLACK, None), (BLACK[:8, :8], None)],
            "image has 8 x 8 pixels, but the first had 16 x 16 pixels; resize it first.",
        ),
        (
            [(np.zeros((16, 16)), None)],
            "image must be of uint8, (H, W) or (H, W, 3). Got float64 of shape (16, 16).",
        ),
        (
            [(BLACK, None), (BLACK, 1.0)],
            "score was given after frames without one; give the first frame a score, NaN if "
            "it has none.",
        ),
        ([], "No frame was written to"),
    ],
)
def test_frames_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, frames, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        write_one_by_one(tmp_path / "seen.mp4", *frames)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("turned", range(10))  # 1 to 8 have a meaning
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
@pytest.mark.parametrize("shape", [(6, 8), (8, 8, 3)])
def test_a_picture_has_the_shape_that_it_is_read_in(tmp_path, shape, suffix, turned):
    path = tmp_path / f"0.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = turned
    picture = Image.fromarray(RNG.integers(0, 256, size=shape).astype(np.uint8))
    picture.save(path, **({} if suffix == "bmp" else {"exif": exif}))
    (frame,) = read_frames(path)
    assert picture_shape(path) == picture_shape(tmp_path) == frame.image.shape
    for color in (False, True):
        few, own = next(read_sized(path, size=(3, 5), color=color))
        assert own == frame.image.shape
        (expected,) = read_frames(path, size=(3, 5), color=color)
        np.testing.assert_array_equal(few.image, expected.image)


def test_the_shape_of_a_photograph_stands_in_its_header(tmp_path):
    Image.fromarray(RNG.integers(0, 256, size=(64, 96)).astype(np.uint8)).save(tmp_path / "0.jpg")
    whole = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "0.jpg").write_bytes(whole[: len(whole) // 2])
    assert picture_shape(tmp_path / "0.jpg") == (64, 96)


def test_a_video_has_the_shape_of_its_first_frame(tmp_path):
    frames = RNG.integers(0, 256, size=(3, 16, 24)).astype(np.uint8)
    path = write_video(tmp_path / "0.mkv", frames)
    assert picture_shape(path) == (16, 24)
    assert [own for _, own in read_sized(path, size=(4, 6), color=False)] == [(16, 24)] * 3


def test_an_overlay_writer_writes_in_its_block_alone(tmp_path):
    with pytest.raises(ValueError, match=r"^An OverlayWriter must be used in a with block"):
        OverlayWriter(tmp_path / "seen.mp4").write(BLACK)


def test_a_score_below_all_bounds_is_irregular_and_one_that_is_none_is_a_gap(tmp_path):
    path = tmp_path / "seen.mp4"
    scores = [1.0, -np.inf, np.nan, np.inf]
    write_overlay(path, np.zeros((4, 40, 60), np.uint8), scores=scores, zoom=4)
    strip = load_frames(path, color=True).frames[-1, 160:].astype(int)
    alarm = [(strip[:, 4 * column : 4 * column + 4, 0] > 60).mean() > 0.8 for column in range(60)]
    assert np.flatnonzero(alarm).tolist() == [57]


def test_a_path_below_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "seen.mp4"
    with pytest.raises(OSError, match=f"^{re.escape(f'{path} cannot be written: Not a dir')}"):
        write_overlay(path, film(2))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    path = tmp_path / "nowhere" / "seen.mp4"
    with pytest.raises(OSError, match=re.escape(f"{path} cannot be written: No such file")):
        write_overlay(path, film(2))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "seen.mp4"
    monkeypatch.setattr("skavid.writing.secrets.token_hex", lambda n: "x")
    touch = Path.touch

    def touch_full(part, *arguments, **options):
        if part.name == ".seen.mp4.x.part":
            part.symlink_to("/dev/full")
        else:
            touch(part, *arguments, **options)

    monkeypatch.setattr(Path, "touch", touch_full)
    with pytest.raises(OSError, match=re.escape(f"{path} cannot be written")):
        write_overlay(path, np.tile(film(40, (128, 128)), (4, 1, 1)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_video_is_read_whole():
    path = next(
        (
            p
            for folder in ("opencv-data", "opencv-doc", "doc/opencv-doc")
            for p in Path("/usr/share", folder).rglob("vtest.avi")
        ),
        None,
    )
    if path is None:
        pytest.skip("vtest.avi of Debian's opencv-data is not installed")
    n = sum(frame.image.shape == (72, 96) for frame in read_frames(path, size=(72, 96)))
    assert n == 795


def join_streams(path, *films):
    """Write films one behind the other into a transport stream, whose clock restarts."""
    parts = []
    for frames in films:
        part = path.with_name("part.ts")
        write_overlay(path.with_name("one.mp4"), frames)
        with (
            av.open(str(path.with_name("one.mp4"))) as source,
            av.open(str(part), "w", format="mpegts") as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))


def test_a_stream_that_changes_its_size_is_told_and_keeps_its_first(tmp_path):
    join_streams(tmp_path / "joined.ts", film(6, (32, 48)), film(6, (64, 48)))
    with (
        pytest.warns(UserWarning, match="a packet is damaged or cut off"),  # where they join
        pytest.warns(UserWarning, match=r"from 48 x 32 pixels .* to 48 x 64 .*the first size"),
    ):
        frames = load_frames(tmp_path / "joined.ts", errors="warn").frames
    assert frames.shape[1:] == (32, 48)
    assert len(frames) >= 10


def test_the_times_of_joined_streams_rise(tmp_path):
    join_streams(tmp_path / "joined.ts", film(6, (32, 48)), film(6, (32, 48)))
    with pytest.warns(UserWarning, match="a packet is damaged or cut off"):  # where they join
        times = load_frames(tmp_path / "joined.ts", errors="warn").times
    assert len(times) >= 10
    np.testing.assert_allclose(np.diff(times), 1 / 25, atol=1e-3)
