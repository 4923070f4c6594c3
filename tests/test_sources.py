"""How files and folders become the images of a model."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skavid import TemporalStacker
from skavid.datasets import sources
from skavid.datasets.sources import (
    Reading,
    check_reading,
    choose_reading,
    contain_video,
    list_sources,
    read_source,
    split_clips,
)
from skavid.video.pictures import normalized

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
        (300, 25, 3),
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


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(16, 24)] + [(24, 16)] * 2, (24, 16)),  # most are portrait, the first is not
        ([(16, 24)] * 3 + [(24, 16), (40, 20), (30, 30)], (20, 24)),  # the median of each side
        ([(300, 512)] + [(512, 300)] * 2, (256, 150)),
    ],
)
def test_the_usual_size_of_pictures_is_taken_whatever_the_first_one_has(tmp_path, shapes, size):
    for number, shape in enumerate(shapes):
        write_pictures(tmp_path / f"{number}", 1, shape=shape)
    clips = list_sources([str(tmp_path)], stacked=False)
    reading = choose_reading(clips, size=None, grey=False, spacing=None)
    assert reading.size == size
    with pytest.warns(UserWarning, match=f"have {len(set(shapes))} different sizes, ") as warned:
        assert len(list(read_source(clips[0], reading))) == len(shapes)
    (message,) = (str(one.message) for one in warned)
    n_apart = sum(h * size[1] != w * size[0] for h, w in shapes)
    verb = "is" if n_apart == 1 else "are"
    assert message.startswith(f"{n_apart} of {len(shapes)} images, ")
    assert f" {verb} resized to the model's {size[1]} x {size[0]} pixels, " in message
    for advice in ("--size", "--crop", "--set inpainter__pooling=everywhere"):
        assert advice in message


def test_pictures_of_different_sizes_and_one_shape_are_resized_without_a_note(tmp_path):
    write_pictures(tmp_path / "a", 1, shape=(20, 30))
    write_pictures(tmp_path / "b", 2, shape=(40, 60))
    (clip,) = list_sources([str(tmp_path)], stacked=False)
    reading = choose_reading([clip], size=None, grey=False, spacing=None)
    assert (reading.size, len(list(read_source(clip, reading)))) == ((40, 60), 3)


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
    real = video.convert

    def convert(picture, *view):
        views.append(view)
        return real(picture, *view)

    monkeypatch.setattr(video, "convert", convert)
    write_pictures(tmp_path, 2, shape=(40, 24))
    (clip,) = list_sources([str(tmp_path)], stacked=False)
    message = (
        "2 of 2 images, which have 24 x 40 pixels (width x height), are resized to the model's "
        "24 x 16 pixels, which changes the aspect ratio. `skavid fit` takes"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}") as warned:
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


def test_pictures_of_one_folder_that_are_given_one_by_one_are_one_source(tmp_path):
    write_pictures(tmp_path / "a", 2)
    write_pictures(tmp_path / "b", 1)
    paths = sorted(map(str, tmp_path.rglob("*.png")))
    found = list_sources(paths, stacked=False)
    assert [[path.name for path in one.pictures] for one in found] == [
        ["0.png", "1.png"],
        ["0.png"],
    ]
    assert found[0].n_pages == (1, 1)


def test_pictures_that_cannot_be_read_are_left_out_with_a_warning(tmp_path):
    write_pictures(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"no picture")
    (clip,) = list_sources([str(tmp_path)], stacked=False)
    message = "1 of 3 images cannot be read: 1.png; get new copies."
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
        {"size": [16, 24], "color": False, "stacking": None, "normalize": 1},
        {"size": [16, 24], "color": False, "stacking": None, "crop": [0, 0, 0, 5]},
        {"size": None, "color": False, "stacking": None, "crop": [0, 0, 5, 5]},
        {"size": None, "color": False, "stacking": {"n_channels": 3}},
        {"size": None, "color": False, "stacking": {**STACKING, "spacing": 10**9}},
        [1, 2, 3],
    ],
)
def test_a_reading_that_was_tampered_with_is_refused(kept):
    message = f"its entry 'reading' is not valid: {kept!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_reading(kept)


@given(
    image=arrays(np.uint8, (6, 8, 3), elements=st.integers(60, 190)),
    gain=st.floats(0.5, 1.3),
    offset=st.integers(-5, 5),
)
def test_normalised_images_have_one_mean_and_spread_whatever_the_light(image, gain, offset):
    seen = normalized(image).astype(float)
    if image.std() < 5:
        return
    unclipped = (seen > 0).all() and (seen < 255).all()
    if unclipped:
        assert seen.mean() == pytest.approx(128, abs=0.5)
        assert seen.std() == pytest.approx(40, abs=0.5)
    other = np.rint(gain * image + offset).clip(0, 255).astype(np.uint8)
    change = 40 / (gain * image.std())  # of rounding the darker or brighter image
    assert abs(normalized(other) - seen).max() <= 1 + 2.5 * change


def test_a_blank_image_stays_blank():
    assert (normalized(np.full((4, 4), 7, np.uint8)) == 128).all()


def test_a_reading_survives_its_file():
    import json

    reading = Reading((16, 24), True, STACKING, None, (1, 2, 30, 40), True)
    assert check_reading(json.loads(json.dumps(reading._asdict()))) == reading


def write_video(path, n=6):
    from skavid.video import write_overlay

    path.parent.mkdir(parents=True, exist_ok=True)
    write_overlay(path, RNG.integers(0, 256, size=(n, 32, 48)).astype(np.uint8))
    return path


def remux(path, target, form):
    import av

    with av.open(str(path)) as source, av.open(str(target), "w", format=form) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return target


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("day.ts", "mpegts"), ("day.mts", "mpegts"), ("day.m4v", "mp4"), ("day.3gp", "mp4"),
        ("day.dat", "matroska"), ("day", "mp4"), ("day.png", "mp4"), ("DAY.MOV", "mov"),
        ("day.bin", "mpegts"), ("day.asf", "asf"), ("day.h264", "h264"),
    ],
)  # fmt: skip
def test_a_video_is_known_by_its_content_in_folders_too(tmp_path, name, form):
    (tmp_path / "cam").mkdir()
    path = remux(write_video(tmp_path / "day.mp4"), tmp_path / "cam" / name, form)
    (tmp_path / "cam/notes.txt").write_text("nothing happened")
    for place in (path, tmp_path / "cam"):
        assert contain_video([str(place)])
        for stacked in (True, False):
            (source,) = list_sources([str(place)], stacked=stacked)
            assert (source.kind, source.path) == ("video", path)
            assert source.has_timestamps()
            assert len(list(read_source(source, Reading((8, 12), False, None)))) == 6


def test_videos_in_folders_of_a_folder_are_found(tmp_path):
    for camera in ("cam1", "cam2/inner"):
        write_video(tmp_path / camera / "monday.mp4")
    sources = list_sources([str(tmp_path)], stacked=True)
    assert [source.name for source in sources] == ["cam1-monday", "inner-monday"]
    assert contain_video([str(tmp_path)])


def test_images_beside_videos_are_told(tmp_path):
    write_video(tmp_path / "a.mp4")
    write_pictures(tmp_path, 2)
    message = f"{tmp_path} contains 1 video, and 2 images such as 0.png; only videos are read."
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        (source,) = list_sources([str(tmp_path)], stacked=True)
    assert source.kind == "video"
    kinds = [source.kind for source in list_sources([str(tmp_path)], stacked=False)]
    assert kinds == ["video", "pictures"]


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    write_pictures(tmp_path / "a", 2)
    (tmp_path / "a/back").symlink_to(tmp_path, target_is_directory=True)
    with pytest.warns(UserWarning, match=r"a/back is a link to .* it is left out\.$"):
        (source,) = list_sources([str(tmp_path)], stacked=False)
    assert [source.name_of(path) for path, _ in source.images()] == ["a/0.png", "a/1.png"]


def test_one_grey_image_does_not_make_all_grey(tmp_path):
    write_pictures(tmp_path, 3, shape=(16, 24, 3))
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(tmp_path / "0.png")
    found = list_sources([str(tmp_path)], stacked=False)
    with pytest.warns(UserWarning, match=r"0\.png is grey, but .*1\.png has colours"):
        reading = choose_reading(found, size=None, grey=False, spacing=None)
    assert reading.color


def test_the_range_of_deep_images_is_kept_for_later_images(tmp_path):
    levels = np.linspace(0, 4000, 16 * 24).reshape(16, 24)
    for name, highest in (("train", 1), ("dark", 0.2)):
        (tmp_path / name).mkdir()
        Image.fromarray((highest * levels).astype(np.uint16)).save(tmp_path / name / "0.png")
    found = list_sources([str(tmp_path / "train")], stacked=False)
    with pytest.warns(UserWarning, match=r"to 4095 \(white\), as of 12 bits, here"):
        reading = choose_reading(found, size=None, grey=False, spacing=None)
    assert reading.value_range == (0, 4095)
    (dark,) = list_sources([str(tmp_path / "dark")], stacked=False)
    (sample,) = read_source(dark, reading)
    np.testing.assert_allclose(sample.image, 0.2 * levels * 255 / 4095, atol=0.6)


def test_images_of_another_depth_than_those_of_the_training_are_told(tmp_path):
    write_pictures(tmp_path / "8", 1)
    (tmp_path / "16").mkdir()
    Image.fromarray(np.full((16, 24), 900, np.uint16)).save(tmp_path / "16/0.png")
    (tmp_path / "full").mkdir()
    Image.fromarray(np.full((16, 24), 65535, np.uint16)).save(tmp_path / "full/0.png")
    more, fewer = "holds images of more than 8 bits, but the model", "holds images of 8 bits, read"
    for stacked in (False, True):
        for name, value_range, told in (
            ("16", None, more),
            ("full", None, more),
            ("8", (0.0, 4095.0), fewer),
            ("8", (0.0, 65535.0), fewer),
        ):
            (source,) = list_sources([str(tmp_path / name)], stacked=stacked)
            stack = STACKING if stacked else None
            with pytest.warns(UserWarning, match=told):
                list(read_source(source, Reading((16, 24), False, stack, value_range)))


@pytest.mark.parametrize("stacked", [False, True])
def test_the_depth_of_a_source_is_looked_for_once(tmp_path, monkeypatch, stacked):
    Image.fromarray(np.full((16, 24), 900, np.uint16)).save(tmp_path / "0.png")
    looked = []
    monkeypatch.setattr(sources, "find_range", lambda paths: looked.append(paths) or (0.0, 1023.0))
    (source,) = list_sources([str(tmp_path)], stacked=stacked)
    reading = Reading((16, 24), False, STACKING if stacked else None, (0.0, 1023.0))
    list(read_source(source, reading))
    assert looked == [[tmp_path / "0.png"]]


def test_what_becomes_too_small_in_large_images_is_told(tmp_path):
    write_pictures(tmp_path, 1, shape=(600, 1024))
    found = list_sources([str(tmp_path)], stacked=False)
    with pytest.warns(UserWarning, match="whatever is smaller than about 12 pixels can hardly"):
        choose_reading(found, size=None, grey=False, spacing=None)


def test_a_stream_of_jpeg_images_is_a_video(tmp_path):
    write_pictures(tmp_path / "frames", 6, shape=(32, 48), suffix="jpg")
    path = tmp_path / "day.mjpeg"
    path.write_bytes(b"".join(p.read_bytes() for p in sorted((tmp_path / "frames").iterdir())))
    (source,) = list_sources([str(path)], stacked=True)
    assert len(list(read_source(source, Reading((16, 24), False, None)))) == 6
