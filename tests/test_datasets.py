"""Puzzles of digits against a slow definition; readers against files made here and real ones."""

from __future__ import annotations

import gzip
import re
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skavid.datasets import load_idx, load_ucsd_ped2, make_ir_mnist


def coded_digits(n_each=6, side=4, first=0):
    """Return pictures that tell which they are: one grey a picture."""
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
            "digits must be pictures of shape (n_digits, h, w). Got (20, 16).",
        ),
        (
            {"labels": np.arange(7)},
            "digits has 20 pictures, but labels has the shape (7,); give one label a picture.",
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
            "test_digits has 20 pictures, but test_labels has the shape (); give one label a "
            "picture.",
        ),
        (
            {"test_digits": np.ones((20, 5, 4)), "test_labels": np.arange(20) % 10},
            "test_digits has pictures of 5 x 4 float64, but digits has pictures of 4 x 4 "
            "float64; bring them to one size and dtype.",
        ),
        (
            {"test_labels": np.arange(20) % 10},
            "test_labels came without test_digits; give both or neither.",
        ),
        (
            {"withheld": 11},
            "labels leave no digit 11 to test with; withhold another digit or give more pictures.",
        ),
        (
            {"labels": np.full(20, 3)},
            "labels leave no digit other than 3 to train with; withhold another digit or give "
            "more pictures.",
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
        ("empty", b"", "is not an IDX file of bytes; its head is b''."),
        ("text", b"label,pixel", "is not an IDX file of bytes; its head is b'labe'."),
        (
            "floats",
            b"\0\0\x0d\x01" + GOOD[4:],
            "is not an IDX file of bytes; its head is b'\\x00\\x00\\r\\x01'.",
        ),
        (
            "scalar",
            b"\0\0\x08\0\x07",
            "is not an IDX file of bytes; its head is b'\\x00\\x00\\x08\\x00'.",
        ),
        (
            "deep",
            b"\0\0\x08\x05" + b"\0\0\0\x01" * 5 + b"\x07",
            "is not an IDX file of bytes; its head is b'\\x00\\x00\\x08\\x05'.",
        ),
        ("head", GOOD[:9], "is cut off within its head; get it anew."),
        ("short", GOOD[:-2], "should hold 12 bytes, but holds 10; get it anew."),
        ("long", GOOD + b"!", "should hold 12 bytes, but holds more; get it anew."),
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
        ("plain.gz", GOOD, "is cut off or damaged, or not gzipped; get it anew."),
        (
            "short.gz",
            gzip.compress(GOOD, mtime=0)[:-9],
            "is cut off or damaged, or not gzipped; get it anew.",
        ),
        (
            "damaged.gz",
            gzip.compress(GOOD, mtime=0)[:12]
            + b"\xff\xff\xff\xff"
            + gzip.compress(GOOD, mtime=0)[16:],
            "is cut off or damaged, or not gzipped; get it anew.",
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
    """Two clips each of three to eleven frames; the frames tell clip and number by their grey."""
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
    data = load_ucsd_ped2(ped2, subset="test", resize=(2, 3))
    assert data.frames.shape == data.masks.shape == (15, 2, 3)
    np.testing.assert_array_equal(data.masks.any(axis=(1, 2)), data.labels == -1)
    np.testing.assert_array_equal(np.argwhere(data.masks[2]), [[1, 2]])
    # One pixel in 720: less than half a grey level of their mean.
    assert load_ucsd_ped2(ped2, subset="test", resize=[1, 1]).masks.sum() == 11


def test_a_missing_data_set_tells_where_it_comes_from_and_how_it_lies(tmp_path):
    message = (
        f"{tmp_path / 'Test'} holds no clips Test001, Test002...; UCSD Ped2 comes from "
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
        f"{n_masks} masks; unpack the archive anew."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(ped2, subset="test")


def test_frames_of_two_sizes_are_told(ped2):
    from PIL import Image

    path = ped2 / "Train" / "Train002" / "012.png"
    Image.fromarray(np.zeros((6, 30), dtype=np.uint8)).save(path)
    message = f"{path} has 6 x 30 pixels, but those before it have 24 x 30; pass resize."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(ped2)
    assert load_ucsd_ped2(ped2, resize=(4, 6)).frames.shape == (15, 4, 6)


@pytest.mark.parametrize("resize", [(4,), (0, 3), (4.5, 3), ("4", "3")])
def test_a_size_that_is_none_is_refused(ped2, resize):
    message = f"resize must be (height, width) in whole pixels. Got {resize!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(ped2, resize=resize)


def test_an_unknown_subset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="The 'subset' parameter of load_ucsd_ped2 must be a str"):
        load_ucsd_ped2(tmp_path, subset="valid")


def test_without_pillow_the_error_says_what_to_install(ped2, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    message = "Pictures need Pillow; pip install 'skavid[image]'."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        load_ucsd_ped2(ped2)


@pytest.mark.slow
def test_ped2_has_its_published_numbers_of_frames_and_irregular_frames(real_data):
    folder = real_data / "ucsd_ped2" / "UCSDped2"
    train = load_ucsd_ped2(folder, resize=(24, 36))
    test = load_ucsd_ped2(folder, subset="test", resize=(24, 36))
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
