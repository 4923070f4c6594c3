"""How files and folders become the images of a model."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skavid import TemporalStacker
from skavid.datasets.sources import (
    Reading,
    check_reading,
    choose_reading,
    list_sources,
    read_source,
    split_clips,
)

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
STACKING = {"n_channels": 3, "spacing": 2, "average": True}


def write_pictures(folder, n, *, shape=(16, 24), suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        picture = RNG.integers(0, 256, size=shape).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.{suffix}")
    return folder


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=12), st.floats(1, 60))
def test_pieces_follow_each_other_and_never_reach_across_clips(lengths, fps):
    ids = np.repeat(np.arange(len(lengths)), lengths)
    groups = split_clips(ids, fps)
    assert groups.shape == ids.shape
    assert set(np.diff(groups)) <= {0, 1}
    assert (np.diff(groups)[np.diff(ids) > 0] == 1).all()
    if len(lengths) >= 10:
        np.testing.assert_array_equal(groups, ids)


@pytest.mark.parametrize(
    ("n_frames", "fps", "n_pieces"),
    [
        (30, 25, 2),  # something is to be held out, however little there is
        (1000, 25, 10),  # pieces of 100 frames
        (15_000, 25, 20),  # ten minutes
        (90_000, 25, 60),  # an hour: pieces of a minute
        (3600, 1, 36),  # an hour at one frame a second: no piece of 60 frames
    ],
)
def test_a_long_clip_becomes_pieces_of_up_to_a_minute(n_frames, fps, n_pieces):
    groups = split_clips(np.zeros(n_frames, int), fps)
    sizes = np.bincount(groups)
    assert len(sizes) == n_pieces
    assert sizes.max() - sizes.min() <= 1


def test_a_video_of_pictures_is_stacked_as_the_stacker_does(tmp_path):
    write_pictures(tmp_path / "clip", 9)
    (clip,) = list_sources([str(tmp_path / "clip")], stacked=True)
    reading = choose_reading([clip], size=None, grey=False, spacing=2)
    assert reading == Reading((16, 24), False, STACKING)
    samples = list(read_source(clip, reading, display=True))
    frames = np.stack([sample.display_image[..., 0] for sample in samples])
    np.testing.assert_array_equal(
        [sample.image for sample in samples],
        TemporalStacker().fit_transform(frames, groups=np.zeros(9, int)),
    )


def test_large_pictures_are_brought_to_a_size_and_keep_their_shape(tmp_path):
    write_pictures(tmp_path, 1, shape=(300, 512, 3))
    clips = list_sources([str(tmp_path)], stacked=False)
    reading = choose_reading(clips, size=None, grey=False, spacing=None)
    assert reading == Reading((150, 256), True, None)
    assert choose_reading(clips, size=None, grey=True, spacing=None).color is False
    video = list_sources([str(tmp_path)], stacked=True)
    assert choose_reading(video, size=None, grey=False, spacing=2).size == (120, 205)


def test_pictures_of_two_folders_have_names_of_their_own(tmp_path):
    for folder in ("a/parts", "b/parts"):
        write_pictures(tmp_path / folder, 1)
    clips = list_sources([str(tmp_path / "a/parts"), str(tmp_path / "b/parts")], stacked=False)
    reading = Reading((16, 24), False, None)
    names = [sample.name for clip in clips for sample in read_source(clip, reading)]
    assert names == ["a-parts/0.png", "b-parts/0.png"]


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["x/cam.mp4", "y/cam.mp4"], ["x-cam", "y-cam"]),
        (["x/day/cam.mp4", "y/day/cam.mp4"], ["x-day-cam", "y-day-cam"]),
        (["x/cam.mp4", "y/cam.mp4", "y/day/door.mp4"], ["x-cam", "y-cam", "day-door"]),
        (["z/01.avi", "z/01.mp4"], ["01-avi", "01-mp4"]),
        (["z/01.avi", "z/01.mp4", "x/01.mp4"], ["z-01-avi", "z-01-mp4", "x-01-mp4"]),
        (["z/Cam.mp4", "z/cam.avi"], ["Cam-mp4", "cam-avi"]),  # one file, to some systems
        (["z/01.mp4", "z/01.mp4", "z/01-2.mp4"], ["01", "01-3", "01-2"]),
        (["rtsp://a@cam/1", "rtsp://b@cam/1"], ["cam-1", "cam-1-2"]),
    ],
)
def test_every_clip_has_a_name_of_its_own(tmp_path, monkeypatch, sources, names):
    monkeypatch.chdir(tmp_path)
    for source in sources:
        if "://" not in source:
            (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / source).touch()
    clips = list_sources(sources, stacked=True)
    assert [clip.name for clip in clips] == names
    assert [clip.prefix for clip in clips] == [f"{name}/" for name in names]


@given(st.lists(st.sampled_from(["a", "b", "a-b", "a-2", "A"]), min_size=3, max_size=12))
def test_clips_never_share_a_name(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("clips")
    sources = []
    for one, two in pairwise(parts):
        for suffix in ("avi", "mp4"):
            sources.append(folder / one / f"{two}.{suffix}")
            sources[-1].parent.mkdir(exist_ok=True)
            sources[-1].touch()
    clips = list_sources([str(source) for source in sources], stacked=True)
    assert len({clip.name.lower() for clip in clips}) == len(clips) == len(sources)


def test_pictures_given_one_by_one_are_a_set(tmp_path):
    write_pictures(tmp_path / "parts", 2)
    write_pictures(tmp_path / "other/parts", 1)
    given = ["parts/0.png", "parts/1.png", "other/parts/0.png"]
    clips = list_sources([str(tmp_path / name) for name in given], stacked=False)
    reading = Reading((16, 24), False, None)
    names = [sample.name for clip in clips for sample in read_source(clip, reading)]
    first = f"{tmp_path.name}-parts"
    assert names == [f"{first}/0.png", f"{first}/1.png", "other-parts/0.png"]


@pytest.mark.parametrize("display", [False, True])
def test_display_images_are_converted_on_request_only(tmp_path, monkeypatch, display):
    from skavid.video import decoding as video

    views = []
    real = video._picture

    def convert(picture, mode, *view):
        views.append(view)
        return real(picture, mode, *view)

    monkeypatch.setattr(video, "_picture", convert)
    write_pictures(tmp_path, 2, shape=(40, 24))
    (clip,) = list_sources([str(tmp_path)], stacked=False)
    message = (
        f"{tmp_path / '0.png'} has 40 x 24 pixels; it is resized to the model's 16 x 24 "
        "pixels, which changes its aspect ratio."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as warned:
        samples = list(read_source(clip, Reading((16, 24), False, None), display=display))
    assert len(warned) == 1
    assert [sample.image.shape for sample in samples] == [(16, 24)] * 2
    assert [sample.display_image is None for sample in samples] == [not display] * 2
    assert views == ([((16, 24), False)] + [(None, True)] * display) * 2


def test_a_folder_that_is_called_like_a_picture_is_a_folder(tmp_path):
    write_pictures(tmp_path / "parts", 2)
    write_pictures(tmp_path / "parts/2.png", 1)
    (clip,) = list_sources([str(tmp_path / "parts")], stacked=False)
    found = [picture.relative_to(tmp_path / "parts").as_posix() for picture in clip.pictures]
    assert found == ["0.png", "1.png", "2.png/0.png"]


def test_pictures_that_cannot_be_read_are_left_out_with_a_warning(tmp_path):
    write_pictures(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"no picture")
    (clip,) = list_sources([str(tmp_path)], stacked=False)
    message = (
        f"1 of 3 images cannot be read, the first of which is {tmp_path / '1.png'}; get new "
        "copies."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        samples = list(read_source(clip, Reading((16, 24), False, None)))
    assert [sample.name for sample in samples] == ["0.png", "2.png"]


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"size": [16], "color": False, "stacking": None},
        {"size": [16, -1], "color": False, "stacking": None},
        {"size": [16, 10**9], "color": False, "stacking": None},
        {"size": None, "color": "no", "stacking": None},
        {"size": None, "color": False, "stacking": {"n_channels": 3}},
        {"size": None, "color": False, "stacking": {**STACKING, "spacing": 10**9}},
        [1, 2, 3],
    ],
)
def test_a_reading_that_was_tampered_with_is_refused(kept):
    message = f"its entry 'reading' is not valid: {kept!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_reading(kept)


def test_a_reading_survives_its_file():
    import json

    reading = Reading((16, 24), True, STACKING)
    assert check_reading(json.loads(json.dumps(reading._asdict()))) == reading
