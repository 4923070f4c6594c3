"""Puzzles compared with a slow definition; readers tested on generated and on real files."""

from __future__ import annotations

import gzip
import re
import shutil
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skavid.datasets.clips import _runs, read_intervals
from skavid.datasets.loaders import (
    UMN_IRREGULAR,
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
)
from skavid.video import BrokenVideoError, read_frames


def coded_digits(n_each=6, side=4, first=0):
    """Return images with one grey level per image."""
    labels = np.repeat(np.arange(10), n_each)
    greys = first + np.arange(len(labels), dtype=np.uint8)
    return np.broadcast_to(greys[:, None, None], (len(labels), side, side)).copy(), labels


def cells_of(puzzles, cell):
    n, height, width = puzzles.shape
    return [
        [
            [puzzles[k, i : i + cell, j : j + cell] for j in range(0, width, cell)]
            for i in range(0, height, cell)
        ]
        for k in range(n)
    ]


# --- make_ir_mnist -------------------------------------------------------------------------------


@given(
    grid=st.integers(1, 4),
    withheld=st.integers(0, 9),
    share_irregular=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    share_withheld=st.sampled_from(["natural", 0.0, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_labels_masks_and_cells_of_puzzles_say_the_same(
    grid, withheld, share_irregular, share_withheld, seed
):
    digits, labels = coded_digits(first=1)
    data = make_ir_mnist(
        digits,
        labels,
        n_train=5,
        n_test=10,
        grid=grid,
        cell=4,
        withheld=withheld,
        share_irregular=share_irregular,
        share_withheld=share_withheld,
        random_state=seed,
    )
    used = {"train": set(), "test": set()}
    for part in used:
        for k, rows in enumerate(cells_of(data[part], 4)):
            for i, j in np.ndindex(grid, grid):
                greys = np.unique(rows[i][j])
                assert len(greys) == 1, "a cell holds one whole picture"
                picture = greys[0] - 1
                used[part].add(int(picture))
                is_withheld = labels[picture] == withheld
                if part == "train":
                    assert not is_withheld
                else:
                    assert data.region_labels[k, i, j] == (-1 if is_withheld else 1)
                    mask = data.masks[k, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                    assert (mask == is_withheld).all()
    assert not used["train"] & used["test"]
    np.testing.assert_array_equal(data.labels, data.region_labels.min(axis=(1, 2)))
    assert (data.labels == -1).sum() == round(10 * share_irregular)
    assert data.train.dtype == data.test.dtype == np.uint8
    assert data.masks.dtype == bool


def test_irregular_puzzles_hold_the_withheld_digit_at_its_natural_share():
    digits, labels = coded_digits()
    sizes = {"n_train": 1, "n_test": 400, "share_irregular": 1.0, "cell": 4}
    data = make_ir_mnist(digits, labels, grid=10, random_state=0, **sizes)
    assert np.mean(data.region_labels == -1) == pytest.approx(0.1, abs=0.005)
    # A small puzzle often has none by chance: then it has one.
    data = make_ir_mnist(digits, labels, grid=2, random_state=0, **sizes)
    assert np.mean(data.region_labels == -1) == pytest.approx(0.1 + 0.9**4 / 4, abs=0.02)


def test_one_seed_makes_the_same_puzzles_and_another_others():
    digits, labels = coded_digits()
    sizes = {"n_train": 4, "n_test": 4, "grid": 3, "cell": 4}
    first, again, other = (
        make_ir_mnist(digits, labels, random_state=seed, **sizes) for seed in (0, 0, 1)
    )
    for name in ("train", "test", "labels", "region_labels", "masks"):
        np.testing.assert_array_equal(first[name], again[name])
    assert (first.train != other.train).any()
    assert (first.test != other.test).any()


def test_irregular_puzzles_stand_among_the_others_in_no_order():
    digits, labels = coded_digits()
    data = make_ir_mnist(digits, labels, n_train=1, n_test=50, grid=2, cell=4, random_state=0)
    assert (data.labels == -1).sum() == 25
    assert 10 < (np.diff(data.labels) != 0).sum() < 40


def test_a_quarter_of_the_pictures_is_kept_for_the_test_puzzles():
    digits, labels = coded_digits()
    data = make_ir_mnist(digits, labels, n_train=200, n_test=200, grid=3, cell=4, random_state=0)
    trained, tested = (set(np.unique(data[part]).tolist()) for part in ("train", "test"))
    withheld = set(digits[labels == 3, 0, 0].tolist())
    assert len(tested - withheld) + len(trained) == 54
    assert 9 <= len(tested - withheld) <= 15
    assert withheld <= tested, "no withheld picture is lost to the training"


def test_separate_test_digits_make_the_test_puzzles_alone():
    digits, labels = coded_digits()
    more, more_labels = coded_digits(n_each=2, first=200)
    data = make_ir_mnist(
        digits,
        labels,
        test_digits=more,
        test_labels=more_labels,
        n_train=40,
        n_test=40,
        grid=3,
        cell=4,
        random_state=0,
    )
    assert data.train.max() < 60
    assert data.test.min() >= 200
    withheld = more[more_labels == 3, 0, 0]
    np.testing.assert_array_equal(np.isin(data.test, withheld), data.masks)


def test_digits_are_scaled_to_bytes_and_to_the_cell():
    digits = np.zeros((20, 8, 8))
    digits[:, :4] = 16.0
    labels = np.tile(np.arange(10), 2)
    data = make_ir_mnist(digits, labels, n_train=2, n_test=2, grid=2, cell=16, random_state=0)
    assert data.train.shape == (2, 32, 32)
    # The upper half is white, the edge between is soft, and no cell leaks into the next.
    for row in (0, 6, 16, 22):
        assert (data.train[:, row] == 255).all()
    for row in (9, 15, 25, 31):
        assert (data.train[:, row] == 0).all()


def test_an_enlarged_digit_keeps_its_ink_and_its_place():
    digits = np.zeros((10, 6, 6), dtype=np.uint8)
    digits[:, 2, 1] = 200
    data = make_ir_mnist(
        digits, np.arange(10), n_train=1, n_test=1, grid=1, cell=12, test_share=0.5, random_state=0
    )
    ink = data.train[0] / 200
    assert ink.sum() == pytest.approx(4, rel=0.02)
    rows, columns = np.indices(ink.shape)
    centre = (rows * ink).sum() / ink.sum(), (columns * ink).sum() / ink.sum()
    assert centre == pytest.approx((4.5, 2.5), abs=0.05)


def test_intensities_are_rounded_to_the_nearest_byte():
    digits = np.full((10, 4, 4), 7.0)
    digits[:, 0, 0] = 16
    data = make_ir_mnist(
        digits, np.arange(10), n_train=1, n_test=1, grid=1, cell=4, test_share=0.5, random_state=0
    )
    assert set(np.unique(data.train)) == {112, 255}  # 7 / 16 * 255 = 111.6


def test_bytes_of_the_right_size_are_left_as_they_are():
    digits, labels = coded_digits()
    data = make_ir_mnist(digits, labels, n_train=30, n_test=2, grid=3, cell=4, random_state=0)
    assert set(np.unique(data.train)) <= set(range(60))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"digits": np.ones((20, 16))},
            "digits must be images of shape (n_digits, h, w). Got (20, 16).",
        ),
        (
            {"labels": np.arange(7)},
            "digits has 20 images, but labels has the shape (7,); give one label per image.",
        ),
        (
            {"digits": np.zeros((20, 4, 4))},
            "digits must hold finite intensities, some above 0. Its maximum is 0.0.",
        ),
        (
            {"digits": np.full((20, 4, 4), np.nan)},
            "digits must hold finite intensities, some above 0. Its maximum is nan.",
        ),
        (
            {"test_digits": np.ones((20, 4, 4))},
            "test_digits has 20 images, but test_labels has the shape (); give one label per "
            "image.",
        ),
        (
            {"test_digits": np.ones((20, 5, 4)), "test_labels": np.arange(20) % 10},
            "test_digits has images of 5 x 4 float64, but digits has images of 4 x 4 float64; "
            "convert them to one size and dtype.",
        ),
        (
            {"test_labels": np.arange(20) % 10},
            "test_labels came without test_digits; give both or neither.",
        ),
        (
            {"withheld": 11},
            "labels leave no digit 11 to test with; withhold another digit or give more images.",
        ),
        (
            {"labels": np.full(20, 3)},
            "labels leave no digit other than 3 to train with; withhold another digit or give "
            "more images.",
        ),
        (
            {"grid": 0},
            "The 'grid' parameter of make_ir_mnist must be an int in the range [1, inf). Got 0 "
            "instead.",
        ),
        (
            {"test_share": 1.0},
            "The 'test_share' parameter of make_ir_mnist must be a float in the range (0.0, "
            "1.0). Got 1.0 instead.",
        ),
    ],
)
def test_digits_that_make_no_puzzles_are_refused(changed, message):
    arguments = {
        "digits": np.ones((20, 4, 4)),
        "labels": np.arange(20) % 10,
        "n_train": 1,
        "n_test": 1,
        "grid": 2,
        "cell": 4,
        "test_share": 0.5,
        "random_state": 3,
    }
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_ir_mnist(**arguments | changed)


# --- load_idx ------------------------------------------------------------------------------------


def idx_bytes(array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (0, 28, 28)])
@pytest.mark.parametrize("name", ["digits", "digits.gz"])
def test_idx_files_are_read_back(tmp_path, shape, name):
    array = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    path = tmp_path / name
    packed = idx_bytes(array)
    path.write_bytes(gzip.compress(packed, mtime=0) if name.endswith(".gz") else packed)
    for given_path in (path, str(path)):
        read = load_idx(given_path)
        assert read.dtype == np.uint8
        assert read.flags.writeable
        np.testing.assert_array_equal(read, array)


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty", b"", "is not an IDX file of bytes; its header is b''."),
        ("text", b"label,pixel", "is not an IDX file of bytes; its header is b'labe'."),
        (
            "floats",
            b"\0\0\x0d\x01" + GOOD[4:],
            "is not an IDX file of bytes; its header is b'\\x00\\x00\\r\\x01'.",
        ),
        (
            "scalar",
            b"\0\0\x08\0\x07",
            "is not an IDX file of bytes; its header is b'\\x00\\x00\\x08\\x00'.",
        ),
        (
            "deep",
            b"\0\0\x08\x05" + b"\0\0\0\x01" * 5 + b"\x07",
            "is not an IDX file of bytes; its header is b'\\x00\\x00\\x08\\x05'.",
        ),
        ("head", GOOD[:9], "is truncated within its header; get a new copy."),
        ("short", GOOD[:-2], "should hold 12 bytes, but holds 10; get a new copy."),
        ("long", GOOD + b"!", "should hold 12 bytes, but holds more; get a new copy."),
        (
            "huge",
            b"\0\0\x08\x03" + b"\xff" * 12,
            f"claims to hold {(2**32 - 1) ** 3} bytes, more than 2 GiB.",
        ),
        (
            "large",
            b"\0\0\x08\x01\x80\0\0\x01",
            "claims to hold 2147483649 bytes, more than 2 GiB.",
        ),
        ("plain.gz", GOOD, "is truncated or damaged, or not gzipped; get a new copy."),
        (
            "short.gz",
            gzip.compress(GOOD, mtime=0)[:-9],
            "is truncated or damaged, or not gzipped; get a new copy.",
        ),
        (
            "damaged.gz",
            gzip.compress(GOOD, mtime=0)[:12]
            + b"\xff\xff\xff\xff"
            + gzip.compress(GOOD, mtime=0)[16:],
            "is truncated or damaged, or not gzipped; get a new copy.",
        ),
    ],
)
def test_files_that_are_not_whole_idx_are_refused(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {told}')}$"):
        load_idx(path)


def test_a_missing_idx_file_tells_where_mnist_comes_from(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    message = f"{path} is not there; MNIST's files come from http://yann.lecun.com/exdb/mnist."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_idx(path)


def test_mnist_is_read_whole(real_data):
    digits = load_idx(real_data / "mnist" / "t10k-images-idx3-ubyte.gz")
    labels = load_idx(real_data / "mnist" / "t10k-labels-idx1-ubyte.gz")
    assert digits.shape == (10000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# --- load_ucsd_ped2 ------------------------------------------------------------------------------


@pytest.fixture(params=["tif", "jpg"])
def ped2(tmp_path, request):
    """Two clips of three to eleven frames, whose grey level encodes clip and number."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "UCSDped2"
    for part, lengths in (("Train", (3, 11)), ("Test", (11, 4))):
        for clip, length in enumerate(lengths, start=1):
            frames = root / part / f"{part}{clip:03d}"
            masks = root / part / f"{part}{clip:03d}_gt"
            frames.mkdir(parents=True)
            (frames / "._001.tif").write_bytes(b"left by another system")
            (frames / ".DS_Store").write_bytes(b"the same")
            for number in range(1, length + 1):
                grey = np.full((24, 30), 100 * clip + number, dtype=np.uint8)
                image.fromarray(grey).save(frames / f"{number:03d}.{request.param}")
                if part == "Test":
                    masks.mkdir(exist_ok=True)
                    mask = np.zeros((24, 30), dtype=np.uint8)
                    mask[15, 21] = 255 * (number > 2)
                    stem = f"{number:03d}" if clip == 1 else f"frame{number:03d}"
                    kind = "bmp" if request.param == "tif" else "png"
                    image.fromarray(mask).save(masks / f"{stem}.{kind}")
    return root


def test_training_clips_are_read_in_the_order_of_time(ped2):
    data = load_ucsd_ped2(ped2)
    assert data.frames.shape == (14, 24, 30)
    assert data.frames.dtype == np.uint8
    np.testing.assert_array_equal(data.clips, np.repeat([1, 2], [3, 11]))
    np.testing.assert_array_equal(data.frames[:, 4, 6], [101, 102, 103, *range(201, 212)])
    assert data.masks is None
    assert (data.labels == 1).all()


def test_test_clips_have_masks_and_labels(ped2):
    data = load_ucsd_ped2(str(ped2), subset="test")
    np.testing.assert_array_equal(data.frames[:, 0, 0], [*range(101, 112), *range(201, 205)])
    assert data.masks.dtype == bool
    expected = [False] * 2 + [True] * 9 + [False] * 2 + [True] * 2
    np.testing.assert_array_equal(data.masks[:, 15, 21], expected)
    assert data.masks.sum() == sum(expected)
    np.testing.assert_array_equal(data.labels == -1, expected)
    assert data.names == ["Test001", "Test002"]


def test_pictures_without_leading_zeros_are_read_in_the_order_of_time(tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "Train" / "Train001"
    folder.mkdir(parents=True)
    (tmp_path / "Train" / "Train002").write_bytes(b"a file, no clip")
    for number in (1, 2, 9, 10, 11, 100):
        kind = "TIF" if number == 9 else "tif"
        image.fromarray(np.full((4, 5), number, np.uint8)).save(folder / f"{number}.{kind}")
    data = load_ucsd_ped2(tmp_path)
    assert data.frames[:, 0, 0].tolist() == [1, 2, 9, 10, 11, 100]
    assert data.clips.tolist() == [1] * 6


def test_a_shrunken_mask_keeps_its_smallest_patch(ped2):
    data = load_ucsd_ped2(ped2, subset="test", size=(2, 3))
    assert data.frames.shape == data.masks.shape == (15, 2, 3)
    np.testing.assert_array_equal(data.masks.any(axis=(1, 2)), data.labels == -1)
    np.testing.assert_array_equal(np.argwhere(data.masks[2]), [[1, 2]])
    # One pixel in 720: less than half a grey level of their mean.
    assert load_ucsd_ped2(ped2, subset="test", size=[1, 1]).masks.sum() == 11


def test_a_missing_data_set_tells_where_it_comes_from_and_how_it_lies(tmp_path):
    message = (
        f"{tmp_path / 'Test'} holds no clips Test001, Test002...; UCSDped2 comes from "
        "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm, unpacked as "
        "UCSDped2/Test/Test001/001.tif."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(tmp_path, subset="test")


@pytest.mark.parametrize(
    ("folder", "n_frames", "n_masks"), [("Test002_gt", 4, 3), ("Test002", 3, 4)]
)
def test_a_missing_mask_or_frame_is_told(ped2, folder, n_frames, n_masks):
    next(path for path in (ped2 / "Test" / folder).glob("[0-9f]*")).unlink()
    message = (
        f"{ped2 / 'Test' / 'Test002'} has {n_frames} frames, but Test002_gt beside it has "
        f"{n_masks} masks; unpack the archive again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(ped2, subset="test")


def test_frames_of_two_sizes_are_told(ped2):
    from PIL import Image

    path = ped2 / "Train" / "Train002" / "012.png"
    Image.fromarray(np.zeros((6, 30), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} has 30 x 6 pixels.*give size="):
        load_ucsd_ped2(ped2)
    assert load_ucsd_ped2(ped2, size=(4, 6)).frames.shape == (15, 4, 6)


@pytest.mark.parametrize("size", [(4,), (0, 3), (4.5, 3), ("4", "3")])
def test_a_size_that_is_no_size_is_refused(ped2, size):
    message = f"size must be (height, width), two positive integers. Got {size!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(ped2, size=size)


def test_an_unknown_subset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The 'subset' parameter of load_ucsd_ped2 must be a str"):
        load_ucsd_ped2(tmp_path, subset="valid")


def test_without_pillow_the_error_says_what_to_install(ped2, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    message = "Images need Pillow; pip install 'skavid[image]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(ped2)


@pytest.mark.slow
def test_ped2_has_its_published_numbers_of_frames_and_irregular_frames(real_data):
    folder = real_data / "ucsd_ped2" / "UCSDped2"
    train = load_ucsd_ped2(folder, size=(24, 36))
    test = load_ucsd_ped2(folder, subset="test", size=(24, 36))
    assert train.frames.shape == (2550, 24, 36)
    assert np.bincount(test.clips)[1:].tolist() == [
        180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180,
    ]  # fmt: skip
    assert (test.labels == -1).sum() == 1648
    # The intervals of UCSDped2.m, 1-based and inclusive.
    intervals = re.findall(r"\[(\d+):(\d+)\]", (folder / "Test" / "UCSDped2.m").read_text())
    for clip, (first, last) in enumerate(intervals, start=1):
        irregular = np.flatnonzero(test.labels[test.clips == clip] == -1) + 1
        np.testing.assert_array_equal(irregular, np.arange(int(first), int(last) + 1))
    assert len(intervals) == 12


# --- the .m files of UCSD, and Ped1's partial masks ----------------------------------------------


def write_pictures(folder, pictures, kind="png", stem="{:03d}", first=1):
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, start=first):
        image.fromarray(picture).save(folder / f"{stem.format(number)}.{kind}")


@pytest.fixture
def ped1(tmp_path):
    """Three test clips of six frames; the second has no masks."""
    root = tmp_path / "UCSDped1"
    frames = np.arange(6 * 8 * 9, dtype=np.uint8).reshape(6, 8, 9)
    masks = np.zeros((6, 8, 9), dtype=np.uint8)
    masks[2:4, 3, 3] = 255
    for clip in (1, 2, 3):
        write_pictures(root / "Test" / f"Test{clip:03d}", frames, "tif")
        if clip != 2:
            write_pictures(root / "Test" / f"Test{clip:03d}_gt", masks, "bmp")
    (root / "Test" / "UCSDped1.m").write_text(
        "TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [3:4];\n"
        "TestVideoFile{end+1}.gt_frame = [1, 5:6];\nTestVideoFile{end+1}.gt_frame = [3:4];\n"
    )
    (root / "Test" / "UCSDped1.m~").write_text("left by an editor: gt_frame = [1:2];")
    (root / "Test" / "._UCSDped1.m").write_text("gt_frame = [1:2];")
    return root


def test_labels_of_clips_without_masks_come_from_their_intervals(ped1):
    data = load_ucsd_ped1(ped1, subset="test")
    expected = [1, 1, -1, -1, 1, 1, -1, 1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1]
    assert data.labels.tolist() == expected
    assert data.has_masks.tolist() == [True] * 6 + [False] * 6 + [True] * 6
    assert data.masks.any(axis=(1, 2)).sum() == 4
    assert not data.masks[6:12].any()


def test_intervals_and_masks_that_disagree_are_told(ped1):
    path = ped1 / "Test" / "UCSDped1.m"
    path.write_text(path.read_text().replace("[3:4]", "[3:5]", 1))
    message = (
        "UCSDped1.m and the masks disagree on 1 frames, Test001 (5); the labels are those of "
        "UCSDped1.m."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as told:
        data = load_ucsd_ped1(ped1, subset="test")
    assert told[0].filename == __file__
    assert data.labels[4] == -1
    assert not data.masks[4].any()


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ([3], "3"),
        ([3, 4, 5, 9], "3 to 5, 9"),
        ([1, 3, 5, 7, 8], "1, 3, 5, ..."),
        ([1, 2, 4, 6], "1 to 2, 4, 6"),
    ],
)
def test_runs_of_frames_are_written_short(numbers, written):
    assert _runs(np.array(numbers)) == written


@pytest.mark.parametrize(
    "text",
    [
        "T{end+1}.gt_frame = [3:4];T{end+1}.gt_frame=[1 5:6];\nT{ end + 1 }.gt_frame = [3 : 4]",
        "T{3}.gt_frame = [3:4];\nT{1}.gt_frame = [3:4];\nT{2}.gt_frame = [1,5:6];",
        "% T{end+1}.gt_frame = [1:6];\r\nT{end+1}.gt_frame = [3, 4]; % T{9}.gt_frame = [1]\r\n"
        "T{end+1}.gt_frame = [1;\n5:6];\r\nT{end+1}.gt_frame = [3:4];\r\n"
        "T{end+1}.gt_frame = [1:200]; % a clip that was not unpacked",
    ],
)
def test_intervals_are_read_as_they_may_be_written(ped1, text):
    (ped1 / "Test" / "UCSDped1.m").write_bytes(text.encode())
    expected = [1, 1, -1, -1, 1, 1, -1, 1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1]
    assert load_ucsd_ped1(ped1, subset="test").labels.tolist() == expected


PED1 = [
    "60:152", "50:175", "91:200", "31:168", "5:90,140:200", "1:100,110:200", "1:175", "1:94",
    "1:48", "1:140", "70:165", "130:200", "1:156", "1:200", "138:200", "123:200", "1:47",
    "54:120", "64:138", "45:175", "31:200", "16:107", "8:165", "50:171", "40:135", "77:144",
    "10:122", "105:200", "1:15,45:113", "175:200", "1:180", "1:52,65:115", "5:165", "1:121",
    "86:200", "15:108",
]  # fmt: skip


def test_ped1s_intervals_have_their_published_number_of_irregular_frames(tmp_path):
    path = tmp_path / "UCSDped1.m"
    lines = [f"TestVideoFile{{end+1}}.gt_frame = [{row}];" for row in PED1]
    path.write_text("\n".join(["TestVideoFile = {};", *lines]))
    clips = np.repeat(np.arange(1, 37), 200)
    labels = read_intervals(path, clips)
    assert (labels == -1).sum() == 4045
    wholly = [clip for clip in range(1, 37) if (labels[clips == clip] == -1).all()]
    assert wholly == [14]
    assert np.flatnonzero(labels[clips == 1] == -1)[[0, -1]].tolist() == [59, 151]


def test_a_list_of_intervals_that_is_none_is_refused(tmp_path):
    path = tmp_path / "UCSDped1.m"
    path.write_bytes(b"{1}.gt_frame = [" * 5000)
    message = f"{path} is larger than 65536 bytes; it is not a list of frames."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_intervals(path, np.ones(3, dtype=int))
    path.write_bytes(path.read_bytes()[:65000])
    message = f"{path} lists 0 clips, and no frames of clip 1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_intervals(path, np.ones(3, dtype=int))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["3:4", "1:2"], "lists 2 clips, and no frames of clip 3."),
        (["3:4", "0:2", "1"], "has the interval '0:2' for clip 2, which has frames 1 to 6."),
        (["3:4", "2:7", "1"], "has the interval '2:7' for clip 2, which has frames 1 to 6."),
        (["3:4", "5:2", "1"], "has the interval '5:2' for clip 2, which has frames 1 to 6."),
        (["3:4", "system('rm')", "1"], "has the interval \"system('rm')\" for clip 2"),
        (["3:4", "-1:4", "1"], "has the interval '-1:4' for clip 2, which has frames 1 to 6."),
        (["3:4", "1:2:6", "1"], "has the interval '1:2:6' for clip 2, which has frames 1 to 6."),
        (["3:4", "1e0", "1"], "has the interval '1e0' for clip 2, which has frames 1 to 6."),
        (["9" * 4000 + ":4", "1", "1"], "has the interval '" + "9" * 40 + "' for clip 1"),
    ],
)
def test_lists_of_intervals_that_do_not_fit_are_refused(ped1, rows, told):
    path = ped1 / "Test" / "UCSDped1.m"
    path.write_text("".join(f"T{{end+1}}.gt_frame = [{row}];\n" for row in rows))
    with pytest.raises(ValueError, match=re.escape(f"{path} {told}")):
        load_ucsd_ped1(ped1, subset="test")


def test_clips_with_neither_masks_nor_intervals_are_refused(ped1):
    (ped1 / "Test" / "UCSDped1.m").unlink()
    message = (
        f"{ped1 / 'Test'} lacks UCSDped1.m, and Test002 no masks, so that their labels are "
        "unknown; UCSDped1 comes from http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped1(ped1, subset="test")


@pytest.mark.parametrize("size", [None, (4, 5)])
def test_a_mask_of_another_shape_than_its_frame_is_refused(ped1, size):
    path = ped1 / "Test" / "Test003_gt" / "004.bmp"
    write_pictures(path.parent, np.zeros((1, 9, 8), np.uint8), "bmp", first=4)
    message = f"{path.parent} has a mask of shape (9, 8), but its frames have (8, 9)."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped1(ped1, subset="test", size=size)


# --- kept in files -------------------------------------------------------------------------------


def test_decoded_frames_are_mapped_from_files_and_decoded_once(ped1, tmp_path, monkeypatch):
    plain = load_ucsd_ped1(ped1, subset="test", size=(4, 5))
    for attempt in range(2):
        data = load_ucsd_ped1(ped1, subset="test", size=(4, 5), memmap=tmp_path / "kept")
        assert isinstance(data.frames, np.memmap)
        assert isinstance(data.masks, np.memmap)
        assert not data.frames.flags.writeable
        for name in ("frames", "clips", "labels", "masks", "has_masks"):
            np.testing.assert_array_equal(data[name], plain[name])
        if attempt == 0:
            kept = {path.name for path in (tmp_path / "kept").iterdir()}
            assert all(name.endswith(".npy") for name in kept)
            monkeypatch.setattr("skavid.datasets.clips.read_frames", None)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == kept


def test_other_sources_and_sizes_are_kept_apart(ped1, tmp_path):
    for size in ((4, 5), (2, 3)):
        assert load_ucsd_ped1(
            ped1, subset="test", size=size, memmap=tmp_path / "kept"
        ).frames.shape == (18, *size)
    write_pictures(ped1 / "Test" / "Test004", np.zeros((1, 8, 9), np.uint8))
    path = ped1 / "Test" / "UCSDped1.m"
    path.write_text(path.read_text() + "T{end+1}.gt_frame = [];")
    data = load_ucsd_ped1(ped1, subset="test", size=(4, 5), memmap=tmp_path / "kept")
    assert len(data.frames) == len(data.masks) == 19
    assert data.labels[-1] == 1
    assert not data.has_masks[-1]


def test_a_failed_reading_leaves_no_file_behind(ped1, tmp_path):
    write_pictures(ped1 / "Test" / "Test004", np.zeros((1, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="pass size"):
        load_ucsd_ped1(ped1, subset="test", memmap=tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_an_interrupted_reading_leaves_no_file_behind_and_begins_anew(ped1, tmp_path, monkeypatch):
    def interrupted(source, **options):
        yield from list(read_frames(source, **options))[:3]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("skavid.datasets.clips.read_frames", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_ucsd_ped1(ped1, subset="test", memmap=tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
    data = load_ucsd_ped1(ped1, subset="test", memmap=str(tmp_path / "kept"))
    assert len(data.frames) == 18


def test_frames_whose_clips_were_deleted_are_decoded_anew(ped1, tmp_path):
    for _ in range(2):
        data = load_ucsd_ped1(ped1, subset="test", memmap=tmp_path / "kept")
        assert data.clips.tolist() == [1] * 6 + [2] * 6 + [3] * 6
        for path in (tmp_path / "kept").glob("*.clips.npy"):
            path.unlink()


# --- UMN -----------------------------------------------------------------------------------------


def write_video(path, frames, fps=25):
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "gray"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_umns_intervals_have_their_published_numbers():
    totals = {
        variant: sum(last - first + 1 for first, last in intervals)
        for variant, intervals in UMN_IRREGULAR.items()
    }
    assert totals == {"A": 1138, "B": 1451}


def test_umn_is_cut_into_clips_and_its_caption_blanked(tmp_path):
    frames = np.full((7739, 20, 8), 200, dtype=np.uint8)
    frames[:, 10, :2] = np.stack([np.arange(7739) % 251, np.arange(7739) // 251], 1)
    write_video(tmp_path / "Crowd-Activity-All.avi", frames)
    train = load_umn(tmp_path)
    test = load_umn(tmp_path / "Crowd-Activity-All.avi", subset="test", variant="B")
    expected = [*range(525), *range(1453, 1806), *range(5596, 6195)]
    assert (train.frames[:, 10, :2].astype(int) @ [1, 251]).tolist() == expected
    assert (train.labels == 1).all()
    assert np.unique(train.clips).tolist() == [1, 3, 9]
    assert np.unique(train.scenes).tolist() == [1, 2, 3]
    assert np.unique(test.clips).tolist() == [2, 4, 5, 6, 7, 8, 10, 11]
    assert len(test.frames) == 7739 - 625 - 549 - 658
    number = test.frames[:, 10, :2].astype(int) @ [1, 251]
    irregular = set(number[test.labels == -1].tolist())
    assert {1294, 1441, 2554, 7738} <= irregular
    assert not {1293, 1442, 2553} & irregular
    assert (train.frames[:, :2] == 0).all()
    assert (train.frames[:, 2:10] == 200).all()
    assert train.masks is None
    assert [(test.labels[test.clips == clip] == -1).sum() for clip in (2, 11)] == [148, 84]
    again = load_umn(tmp_path, size=(10, 8), memmap=tmp_path / "kept")
    assert again.frames.shape == (1477, 10, 8)
    assert (again.frames[:, 0] == 0).all()
    np.testing.assert_array_equal(again.clips, train.clips)


def test_a_umn_video_of_another_length_is_refused(tmp_path):
    path = tmp_path / "Crowd-Activity-All.avi"
    write_video(path, np.zeros((9, 16, 16), dtype=np.uint8))
    message = (
        f"{path} has 9 frames, but the labels belong to a video of 7739; get it from "
        "http://mha.cs.umn.edu/proj_events.shtml."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_umn(tmp_path)


# --- CUHK Avenue and ShanghaiTech ----------------------------------------------------------------


@pytest.fixture
def avenue(tmp_path):
    from scipy.io import savemat

    frames = np.arange(5 * 16 * 18).reshape(5, 16, 18).astype(np.uint8)
    masks = np.zeros((5, 16, 18), dtype=np.uint8)
    masks[3, 2:4, 5] = 1
    for part in ("training_videos", "testing_videos"):
        for clip in (1, 2):
            write_video(tmp_path / part / f"{clip:02d}.avi", frames)
    drawn = tmp_path / "ground_truth_demo" / "testing_label_mask"
    drawn.mkdir(parents=True)
    for clip in (1, 2):
        cells = np.empty((1, 5), dtype=object)
        for index in range(5):
            cells[0, index] = masks[index] * (clip == 1)
        savemat(drawn / f"{clip}_label.mat", {"volLabel": cells})
    return tmp_path, frames, masks


def test_avenues_frames_and_masks_are_read(avenue):
    folder, frames, masks = avenue
    train, test = load_avenue(folder), load_avenue(folder, subset="test")
    np.testing.assert_array_equal(train.frames, np.concatenate([frames, frames]))
    assert train.clips.tolist() == [1] * 5 + [2] * 5
    np.testing.assert_array_equal(test.masks[:5], masks > 0)
    assert test.labels.tolist() == [1, 1, 1, -1, 1] + [1] * 5
    assert load_avenue(folder, subset="test", drop=(1,)).clips.tolist() == [2] * 5
    assert load_avenue(folder, subset="test", size=(4, 6)).masks[3].sum() == 1


@pytest.mark.parametrize("drop", [(3,), (1, 2), ("1",)])
def test_clips_that_cannot_be_dropped_are_told(avenue, drop):
    message = (
        f"drop must be some of the clips [1, 2] in {avenue[0] / 'testing_videos'}. Got {drop!r}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_avenue(avenue[0], subset="test", drop=drop)


def test_a_missing_file_of_masks_is_told_before_anything_is_decoded(
    avenue, shanghaitech, monkeypatch
):
    monkeypatch.setattr("skavid.datasets.clips.read_frames", None)
    path = avenue[0] / "ground_truth_demo" / "testing_label_mask" / "2_label.mat"
    path.unlink()
    message = (
        f"{path} is not there; CUHK Avenue comes from "
        "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_avenue(avenue[0], subset="test")
    path = shanghaitech / "testing" / "test_pixel_mask" / "05_0018.npy"
    path.unlink()
    message = (
        f"{path} is not there; ShanghaiTech Campus comes from "
        "https://svip-lab.github.io/dataset/campus_dataset.html."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_shanghaitech(shanghaitech, subset="test")


def test_cells_of_avenues_masks_that_are_no_numbers_are_refused(avenue):
    from scipy.io import savemat

    path = avenue[0] / "ground_truth_demo" / "testing_label_mask" / "1_label.mat"
    cells = np.empty((1, 5), dtype=object)
    cells[0, :] = "eval"
    savemat(path, {"volLabel": cells})
    message = f"{path} is no file of masks (volLabel); get a new copy."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_avenue(avenue[0], subset="test")


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"\x00" * 300])
def test_a_damaged_file_of_avenues_masks_is_named(avenue, content):
    path = avenue[0] / "ground_truth_demo" / "testing_label_mask" / "2_label.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is no file of masks (volLabel)")):
        load_avenue(avenue[0], subset="test")


@pytest.fixture
def shanghaitech(tmp_path):
    frames = np.arange(4 * 16 * 18).reshape(4, 16, 18).astype(np.uint8)
    write_video(tmp_path / "training" / "videos" / "01_001.avi", frames)
    write_video(tmp_path / "training" / "videos" / "12_003.avi", frames)
    masks = np.zeros((4, 16, 18), dtype=np.uint8)
    masks[1:3, 5, 5] = 1
    root = tmp_path / "testing"
    for name in ("01_0014", "05_0018"):
        write_pictures(root / "frames" / name, frames, "png", first=0)
    for kind in ("test_frame_mask", "test_pixel_mask"):
        (root / kind).mkdir()
        for name in ("01_0014", "05_0018"):
            mask = masks * (name[:2] == "05")
            drawn = mask if kind == "test_pixel_mask" else mask.any(axis=(1, 2)).astype(int)
            np.save(root / kind / f"{name}.npy", drawn)
    return tmp_path


def test_shanghaitech_has_scenes_names_and_masks(shanghaitech):
    train = load_shanghaitech(shanghaitech)
    assert train.names == ["01_001", "12_003"]
    assert train.scenes.tolist() == [1] * 4 + [12] * 4
    test = load_shanghaitech(shanghaitech, subset="test")
    assert test.labels.tolist() == [1] * 5 + [-1, -1, 1]
    assert np.argwhere(test.masks).tolist() == [[5, 5, 5], [6, 5, 5]]


def test_shanghaitechs_two_kinds_of_label_that_disagree_are_told(shanghaitech):
    np.save(shanghaitech / "testing" / "test_frame_mask" / "01_0014.npy", np.ones(4))
    message = (
        "test_frame_mask and the masks disagree on 4 frames, 01_0014 (0 to 3); the labels are "
        "those of test_frame_mask."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as told:
        assert (load_shanghaitech(shanghaitech, subset="test").labels[:4] == -1).all()
    assert told[0].filename == __file__


def test_shanghaitechs_converted_clips_count_once(shanghaitech):
    root = shanghaitech / "training"
    (root / "videos").rename(root / "converted_videos")
    write_pictures(root / "frames" / "01_001", np.zeros((1, 16, 18), np.uint8))
    assert load_shanghaitech(shanghaitech).names == ["01_001", "12_003"]
    shutil.rmtree(root / "converted_videos")
    assert load_shanghaitech(shanghaitech).clips.tolist() == [0]


@pytest.mark.parametrize(
    ("kind", "array", "told"),
    [
        ("test_frame_mask", np.ones(3), "has 3 labels, but its clip has 4 frames."),
        (
            "test_frame_mask",
            np.ones((4, 1)),
            "holds float64 of shape (4, 1), not numbers of 1 axes.",
        ),
        (
            "test_frame_mask",
            np.array(["yes"] * 4),
            "holds <U3 of shape (4,), not numbers of 1 axes.",
        ),
        (
            "test_pixel_mask",
            np.ones((4, 16)),
            "holds float64 of shape (4, 16), not numbers of 3 axes.",
        ),
        (
            "test_pixel_mask",
            np.ones((4, 8, 18)),
            "has a mask of shape (8, 18), but its frames have (16, 18).",
        ),
    ],
)
def test_arrays_of_another_shape_are_refused(shanghaitech, kind, array, told):
    path = shanghaitech / "testing" / kind / "05_0018.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {told}')}$"):
        load_shanghaitech(shanghaitech, subset="test", size=(4, 4))


def test_a_video_with_more_frames_than_masks_is_told(avenue):
    path = avenue[0] / "testing_videos" / "02.avi"
    write_video(path, np.zeros((6, 16, 18), dtype=np.uint8))
    message = (
        f"{path} has 6 frames, but 2_label.mat beside it has 5 masks; unpack the archive again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_avenue(avenue[0], subset="test")


def test_masks_that_would_run_code_are_not_loaded(shanghaitech):
    path = shanghaitech / "testing" / "test_pixel_mask" / "01_0014.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(
        ValueError, match=re.escape(f"{path} is no array of masks; get a new copy.")
    ):
        load_shanghaitech(shanghaitech, subset="test")


# --- single images -------------------------------------------------------------------------------


@pytest.fixture
def bottle(tmp_path):
    root = tmp_path / "bottle"
    good = np.full((2, 8, 6, 3), (10, 20, 30), dtype=np.uint8)
    write_pictures(root / "train" / "good", good, first=0)
    write_pictures(root / "test" / "good", good[:1], first=0)
    write_pictures(root / "test" / "broken", good, first=0)
    masks = np.zeros((2, 8, 6), dtype=np.uint8)
    masks[:, 1, 2] = 3  # classes, as VisA has them
    write_pictures(root / "ground_truth" / "broken", masks, stem="{:03d}_mask", first=0)
    return tmp_path


def test_mvtecs_images_masks_and_kinds_are_read(bottle):
    train = load_mvtec(bottle, "bottle")
    assert train.images.shape == (2, 8, 6, 3)
    assert train.images[0, 0, 0].tolist() == [10, 20, 30]
    assert train.masks is None
    test = load_mvtec(bottle / "bottle", subset="test", color=False, memmap=bottle / "kept")
    assert test.kinds == ["broken", "broken", "good"]
    assert test.labels.tolist() == [-1, -1, 1]
    assert np.argwhere(test.masks).tolist() == [[0, 1, 2], [1, 1, 2]]
    assert [path.name for path in test.paths] == ["000.png", "001.png", "000.png"]
    assert test.images.shape == (3, 8, 6)


def test_masks_may_have_the_names_of_their_images(bottle):
    folder = bottle / "bottle" / "ground_truth" / "broken"
    (folder / "000_mask.png").rename(folder / "000.png")
    mask = np.zeros((1, 8, 6), np.uint8)
    mask[0, 7, 5] = 1
    write_pictures(folder, mask, "bmp", stem="001")
    (folder / "001_mask.png").unlink()
    test = load_mvtec(bottle, "bottle", subset="test", size=(4, 3))
    assert np.argwhere(test.masks).tolist() == [[0, 0, 1], [1, 3, 2]]


@pytest.mark.parametrize("where", ["test/broken/001.png", "ground_truth/broken/001_mask.png"])
def test_a_damaged_picture_is_named_and_nothing_of_it_is_kept(bottle, where):
    path = bottle / "bottle" / where
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BrokenVideoError, match=f"^{re.escape(str(path))} is broken.*{path.name}"):
        load_mvtec(bottle, "bottle", subset="test", memmap=bottle / "kept")
    # The images, where they are sound, and no mask.
    kept = [path.name for path in (bottle / "kept").iterdir()]
    assert len(kept) == ("mask" in where)
    assert not any("part" in name or "masks" in name for name in kept)


def test_masks_may_be_missing_as_a_whole(bottle):
    shutil.rmtree(bottle / "bottle" / "ground_truth")
    with pytest.warns(UserWarning, match="holds no masks, such as .* only labels are known"):
        test = load_mvtec(bottle, "bottle", subset="test")
    assert test.masks is None
    assert test.labels.tolist() == [-1, -1, 1]


@pytest.mark.parametrize("name", ["ok", "OK", "Good", "normal"])
def test_a_folder_of_normal_images_has_one_of_the_usual_names(bottle, name):
    for part in ("train", "test"):
        (bottle / "bottle" / part / "good").rename(bottle / "bottle" / part / name)
    assert load_mvtec(bottle, "bottle").labels.tolist() == [1, 1]
    test = load_mvtec(bottle, "bottle", subset="test")
    assert [kind for kind, label in zip(test.kinds, test.labels, strict=True) if label == 1] == [
        name
    ]
    assert test.masks.any(axis=(1, 2)).tolist() == (test.labels == -1).tolist()


GREY = np.full((1, 8, 6), 9, np.uint8)
DRAWN = np.zeros((2, 1, 8, 6), np.uint8)
DRAWN[0, 0, 1, 2] = DRAWN[1, 0, 3, 4] = 1


def loco(root):
    write_pictures(root / "train/good", GREY, first=0)
    write_pictures(root / "validation/good", GREY, first=0)
    for kind in ("good", "logical_anomalies"):
        write_pictures(root / "test" / kind, GREY, first=0)
    write_pictures(root / "ground_truth/logical_anomalies/000", np.concatenate(DRAWN), first=0)


def ad2(root):
    write_pictures(root / "train/good", GREY, stem="{:03d}_regular", first=0)
    for kind in ("good", "bad"):
        write_pictures(root / "test_public" / kind, GREY, stem="{:03d}_regular", first=0)
    masks = root / "test_public/ground_truth/bad"
    write_pictures(masks, DRAWN.any(0).astype(np.uint8), stem="{:03d}_regular_mask", first=0)


def in_3d(root):
    for kind in ("train/good", "test/good", "test/hole"):
        write_pictures(root / kind / "rgb", GREY, first=0)
        write_pictures(root / kind / "gt", DRAWN.any(0).astype(np.uint8), first=0)


def btad(root):
    write_pictures(root / "train/ok", GREY, "bmp", first=0)
    write_pictures(root / "test/ok", GREY, "bmp", first=0)
    write_pictures(root / "test/ko", GREY, "bmp", first=0)
    write_pictures(root / "ground_truth/ko", DRAWN.any(0).astype(np.uint8), first=0)


def visa(root):
    for kind, n in (("Normal", 2), ("Anomaly", 1)):
        write_pictures(root / "Data/Images" / kind, GREY.repeat(n, 0), "JPG", first=0)
    write_pictures(root / "Data/Masks/Anomaly", DRAWN.any(0).astype(np.uint8), first=0)
    (root.parent / "split_csv").mkdir()
    name = root.name
    (root.parent / "split_csv/1cls.csv").write_text(
        "object,split,label,image,mask\n"
        f"{name},train,normal,{name}/Data/Images/Normal/000.JPG,\n"
        f"{name},test,normal,{name}/Data/Images/Normal/001.JPG,\n"
        f"other,test,normal,other/Data/Images/Normal/001.JPG,\n"
        f"{name},test,anomaly,{name}/Data/Images/Anomaly/000.JPG,{name}/Data/Masks/Anomaly/000.png\n"
    )


@pytest.mark.parametrize("make", [loco, ad2, in_3d, btad, visa])
def test_the_layouts_of_other_data_sets_are_read(tmp_path, make):
    make(tmp_path / "part")
    train = load_mvtec(tmp_path, "part")
    assert train.labels.tolist() == [1]
    test = load_mvtec(tmp_path, "part", subset="test")
    assert sorted(test.labels.tolist()) == [-1, 1]
    assert np.argwhere(test.masks[test.labels == -1][0]).tolist() == [[1, 2], [3, 4]]
    assert not test.masks[test.labels == 1].any()


def test_a_folder_of_categories_asks_for_one(bottle):
    with pytest.raises(FileNotFoundError, match=r"holds the categories bottle; give one of them"):
        load_mvtec(bottle)


def test_an_image_added_to_a_kept_set_is_decoded(bottle):
    kept = bottle / "kept"
    load_mvtec(bottle, "bottle", subset="test", memmap=kept)
    write_pictures(bottle / "bottle" / "test" / "good", np.ones((1, 8, 6), np.uint8), first=7)
    test = load_mvtec(bottle, "bottle", subset="test", memmap=kept)
    assert len(test.images) == len(test.masks) == 4
    assert test.images[3].max() == 1


def test_a_missing_mask_of_an_irregular_image_is_told(bottle):
    folder = bottle / "bottle" / "ground_truth" / "broken"
    (folder / "001_mask.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"has no mask 001_mask.png in {folder}.")
    ):
        load_mvtec(bottle, "bottle", subset="test")


def test_images_of_two_sizes_ask_for_one(bottle):
    write_pictures(bottle / "bottle" / "train" / "good", np.zeros((1, 9, 9), np.uint8), first=2)
    message = (
        f"{bottle / 'bottle' / 'train' / 'good' / '002.png'} has 9 x 9 pixels, but 000.png has "
        "6 x 8 pixels; pass size=(height, width) to resize both."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_mvtec(bottle, "bottle")
    assert load_mvtec(bottle, "bottle", size=(4, 4)).images.shape == (3, 4, 4, 3)


def tile_folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind, n in (("Free", 6), ("Crack", 2), ("Uneven", 1)):
        folder = tmp_path / f"MT_{kind}" / "Imgs"
        for index in range(n):
            image = rng.integers(0, 255, (10 + index, 12), dtype=np.uint8)
            mask = np.zeros_like(image)
            mask[3, 3], mask[5, 5] = 128 * (kind == "Crack"), 127
            write_pictures(folder / f"{index}", np.stack([image]), "jpg", stem="t")
            write_pictures(folder / f"m{index}", np.stack([mask]), "png", stem="t")
            (folder / f"{index}" / "t.jpg").rename(folder / f"exp{index}.jpg")
            (folder / f"m{index}" / "t.png").rename(folder / f"exp{index}.png")
            for left in (f"{index}", f"m{index}"):
                (folder / left).rmdir()
    return tmp_path


def test_tiles_are_split_by_seed_and_their_masks_cut_at_127(tmp_path):
    folder = tile_folder(tmp_path)
    train = load_magnetic_tiles(folder, size=(8, 8), n_train=4)
    message = r"^1 mask of irregular images is empty, such as that of .*exp0\.jpg; their"
    with pytest.warns(UserWarning, match=message):
        test = load_magnetic_tiles(folder, size=(8, 8), n_train=4, subset="test")
    assert train.images.shape == (4, 8, 8)
    assert test.kinds == ["Free", "Free", "Crack", "Crack", "Uneven"]
    assert test.labels.tolist() == [1, 1, -1, -1, -1]
    assert test.masks.any(axis=(1, 2)).tolist() == [False, False, True, True, False]
    # Pixel (3, 3) of 10 x 12 lies in two rows of 8.
    assert np.argwhere(test.masks[2]).tolist() == [[2, 2], [3, 2]]
    free = {path.name for path in [*train.paths, *test.paths[:2]]}
    assert len(free) == 6
    other = load_magnetic_tiles(folder, size=(8, 8), n_train=4, random_state=3)
    assert {path.name for path in other.paths} != {path.name for path in train.paths}
    message = "n_train must leave some of the 6 normal tiles to test with. Got 6."
    with pytest.raises(ValueError, match=re.escape(message)):
        load_magnetic_tiles(folder, size=(8, 8), n_train=6)
    for no_seed in (None, np.random.RandomState(0)):  # would share tiles between the subsets
        with pytest.raises(ValueError, match="'random_state' parameter of load_magnetic_tiles"):
            load_magnetic_tiles(folder, size=(8, 8), n_train=4, random_state=no_seed)
    path = folder / "MT_Crack" / "Imgs" / "exp1.png"
    path.unlink()
    message = f"{path.with_suffix('.jpg')} has no mask exp1_mask.png in {path.parent}."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_magnetic_tiles(folder, size=(8, 8), n_train=4, subset="test")


def test_a_folder_of_videos_folders_or_pictures_is_read(tmp_path):
    frames = np.arange(3 * 16 * 18).reshape(3, 16, 18).astype(np.uint8)
    write_pictures(tmp_path / "a" / "clip10", frames[:1])
    write_pictures(tmp_path / "a" / "clip9", frames)
    (tmp_path / "a" / "empty").mkdir()
    folders = load_folder(tmp_path / "a")
    assert folders.names == ["clip9", "clip10"]
    assert folders.clips.tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(folders.frames[:3], frames)
    write_video(tmp_path / "a" / "one.avi", frames)
    videos = load_folder(tmp_path / "a", size=(8, 9), color=True)
    assert videos.frames.shape == (3, 8, 9, 3)
    assert videos.names == ["one.avi"]
    assert videos.times.tolist() == [0.0, 0.04, 0.08]
    kept = load_folder(tmp_path / "a", memmap=tmp_path / "kept")
    assert load_folder(tmp_path / "a", memmap=tmp_path / "kept").times.tolist() == [0, 0.04, 0.08]
    np.testing.assert_array_equal(kept.frames, frames)
    pictures = load_folder(tmp_path / "a" / "clip9")
    assert pictures.names == ["001.png", "002.png", "003.png"]
    (tmp_path / "none").mkdir()
    message = f"{tmp_path / 'none'} holds no video, no folder of images and no image."
    with pytest.raises(ValueError, match=re.escape(message)):
        load_folder(tmp_path / "none")


@pytest.mark.parametrize(
    ("load", "where", "told"),
    [
        (
            load_umn,
            "Crowd-Activity-All.avi",
            "is not there; UMN comes from http://mha.cs.umn.edu/proj_events.shtml, as one video, "
            "Crowd-Activity-All.avi.",
        ),
        (
            load_avenue,
            "training_videos",
            "holds no 01.avi, 02.avi...; CUHK Avenue comes from "
            "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html, unpacked as "
            "training_videos/01.avi, testing_videos/01.avi and "
            "ground_truth_demo/testing_label_mask/1_label.mat.",
        ),
        (
            load_shanghaitech,
            "training",
            "holds no clips videos/01_001.avi or frames/01_0014/000.jpg; ShanghaiTech Campus "
            "comes from https://svip-lab.github.io/dataset/campus_dataset.html, unpacked as "
            "training/videos/01_001.avi, testing/frames/01_0014/000.jpg, "
            "testing/test_frame_mask/01_0014.npy and testing/test_pixel_mask/01_0014.npy.",
        ),
        (
            lambda folder: load_mvtec(folder, "bottle"),
            "bottle/train",
            "holds no images good/000.png; MVTec AD comes from "
            "https://www.mvtec.com/company/research/datasets/mvtec-ad, unpacked as "
            "CATEGORY/train/good/000.png, CATEGORY/test/DEFECT/000.png and "
            "CATEGORY/ground_truth/DEFECT/000_mask.png. The layouts of MVTec LOCO, AD 2 and 3D, "
            "BTAD and VisA are known, too; other folders are read by load_folder.",
        ),
        (
            lambda folder: load_magnetic_tiles(folder, size=(8, 8)),
            "",
            "holds no tiles MT_Free/Imgs/*.jpg; they come from "
            "https://github.com/abin24/Magnetic-tile-defect-datasets., unpacked as "
            "MT_Free/Imgs/exp1.jpg, MT_Crack/Imgs/exp1.jpg and MT_Crack/Imgs/exp1.png, its mask.",
        ),
    ],
)
def test_what_is_missing_is_told_with_its_address_and_layout(tmp_path, load, where, told):
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(f'{tmp_path / where} {told}')}$"):
        load(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    message = f"There is no folder {tmp_path / 'x'}."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_folder(tmp_path / "x")


@pytest.mark.slow
def test_real_tiles_have_their_known_numbers(real_data):
    train = load_magnetic_tiles(real_data / "mtd", size=(32, 32))
    with pytest.warns(UserWarning, match="^4 masks of irregular images are empty"):
        test = load_magnetic_tiles(real_data / "mtd", size=(32, 32), subset="test")
    assert len(train.images) == 300
    kinds = {kind: test.kinds.count(kind) for kind in test.kinds}
    assert kinds == {
        "Free": 120, "Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103,
    }  # fmt: skip
    odd = test.labels == -1
    assert (~test.masks[odd].any(axis=(1, 2))).sum() == 4
    assert not test.masks[~odd].any()
