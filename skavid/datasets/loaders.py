"""Loaders of published data sets (Sec. 4.1) and of folders; nothing is downloaded.

If files are missing, a FileNotFoundError names the source of the data and the expected layout.
Data that do not match their labels or masks raise a ValueError.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state

from skavid.datasets.clips import (
    Clip,
    cache_path,
    check_files,
    check_masks,
    collect,
    find_masks,
    is_normal,
    list_folders,
    load_clips,
    mat_masks,
    npy_labels,
    npy_masks,
    of_one_size,
    picture_masks,
    read_clips,
    read_intervals,
    read_mask,
    read_picture,
    warn_of_disagreement,
)
from skavid.datasets.synthetic import make_ir_mnist, make_moving_shapes
from skavid.sklearn_private import Interval, StrOptions, validated
from skavid.video.decoding import VIDEOS, is_video
from skavid.video.frames import check_size, read_frames
from skavid.video.pictures import find_range, list_pictures, natural
from skavid.wording import counted, listed

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

MNIST_ADDRESS = "http://yann.lecun.com/exdb/mnist"
UCSD_ADDRESS = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm"
UMN_ADDRESS = "http://mha.cs.umn.edu/proj_events.shtml"
AVENUE_ADDRESS = "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html"
SHANGHAITECH_ADDRESS = "https://svip-lab.github.io/dataset/campus_dataset.html"
MVTEC_ADDRESS = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
TILES_ADDRESS = "https://github.com/abin24/Magnetic-tile-defect-datasets."

LARGEST_IDX = 2**31
LIKELY_IDX = 2**28
MOST_PACKED = 100  # compression ratio of gzipped files that claim more than LIKELY_IDX

# UMN, frames from 0, ends included: clips, scenes and irregular intervals.
UMN_CLIPS = (
    (0, 624), (625, 1452), (1453, 2001), (2002, 2686), (2687, 3454), (3455, 4033), (4034, 4928),
    (4929, 5595), (5596, 6253), (6254, 6930), (6931, 7738),
)  # fmt: skip
UMN_SCENES = (1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3)
UMN_FIRSTS = (1, 3, 9)  # the first clip of each scene
UMN_IRREGULAR = {
    "A": (
        (525, 614), (1330, 1439), (1806, 1985), (2605, 2684), (3219, 3428), (3938, 4017),
        (4807, 4928), (5422, 5595), (6195, 6235), (6883, 6913), (7700, 7719),
    ),
    "B": (
        (482, 617), (1294, 1441), (1756, 1938), (2554, 2679), (3179, 3341), (3907, 4012),
        (4770, 4928), (5385, 5522), (6144, 6253), (6820, 6917), (7655, 7738),
    ),
}  # fmt: skip
UMN_CAPTION = 24 / 240  # share of the rows at the top

_READER: dict[str, list[Any]] = {
    "folder": [str, Path],
    "subset": [StrOptions({"train", "test"})],
    "size": [tuple, list, None],
    "memmap": [str, Path, None],
}


def load_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read an array of bytes in the IDX format of MNIST, optionally gzipped.

    Parameters
    ----------
    path : str or Path
        For example ``train-images-idx3-ubyte.gz``.

    Returns
    -------
    array : ndarray, uint8
        The array, of the shape in the header of the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skavid.datasets import load_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels-idx1-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    ...     load_idx(path)
    array([7, 8, 9], dtype=uint8)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; MNIST's files come from {MNIST_ADDRESS}.")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
                raise ValueError(f"{path} is not an IDX file of bytes; its header is {head!r}.")
            sizes = file.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise ValueError(f"{path} is truncated within its header; get a new copy.")
            shape = struct.unpack(f">{head[3]}I", sizes)
            n_bytes = math.prod(shape)
            if n_bytes > LARGEST_IDX:
                raise ValueError(f"{path} claims to hold {n_bytes} bytes, more than 2 GiB.")
            size = path.stat().st_size
            if path.suffix == ".gz" and n_bytes > max(LIKELY_IDX, MOST_PACKED * size):
                raise ValueError(
                    f"{path} claims to unpack {size} bytes to {n_bytes}, which is implausible for "
                    "images; unpack it with gunzip if you trust it."
                )
            if path.suffix == ".gz" or n_bytes <= size:
                array = np.empty(n_bytes, np.uint8)
                found = file.readinto(array.data)
                more = file.read(1)
            else:  # without allocating memory
                found, more = size - 4 - len(sizes), b""
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is truncated or damaged, or not gzipped; get a new copy."
        ) from error
    if found != n_bytes or more:
        held = "more" if more else found
        raise ValueError(f"{path} should hold {n_bytes} bytes, but holds {held}; get a new copy.")
    return array.reshape(shape)


@validated(**_READER)
def load_ucsd_ped1(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read UCSD Ped1: a walkway with people who walk towards the camera and away from it.

    Parameters
    ----------
    folder : str or Path
        ``UCSDped1``, which holds ``Train`` and ``Test``.
    subset : {"train", "test"}, default="train"
        34 clips of 6800 normal frames, or 36 clips of 7200 frames.
    size : tuple (height, width), default=None
        Size of the frames and masks; 158 x 238 when None.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`.

    Returns
    -------
    data : Bunch
        As in `load_ucsd_ped2`. Ten of the test clips have masks, as ``has_masks`` shows; the
        masks of the other frames are empty.

    References
    ----------
    .. [1] V. Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    """
    return _load_ucsd(Path(folder), "UCSDped1", subset, size, memmap)


@validated(**_READER)
def load_ucsd_ped2(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read UCSD Ped2: a walkway seen by a fixed camera.

    Parameters
    ----------
    folder : str or Path
        ``UCSDped2``, which holds ``Train`` and ``Test``.
    subset : {"train", "test"}, default="train"
        16 clips of 2550 normal frames, or 12 clips of 2010 frames with masks.
    size : tuple (height, width), default=None
        Size of the frames and masks; 240 x 360 when None. Frames are resized by averaging, and
        masks so that a pixel is True if any pixel that it covers is.
    memmap : str or Path, default=None
        A folder for decoded frames and masks, which are then mapped into memory, in later calls
        without decoding. None reads them into memory.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W); ``clips`` int (n,), from 1; ``labels`` int (n,), -1 for
        irregular and 1 for normal frames; ``masks`` bool (n, H, W), or None for training frames;
        ``has_masks`` bool (n,), whether the data set has a mask, or None; ``names`` list of str,
        the names of the clips, such as "Test001".

    Notes
    -----
    The official archive has TIFF frames and BMP masks; JPEG and PNG copies are read as well.
    Masks are named ``001`` in some clips and ``frame001`` in others. Labels come from the
    intervals in ``UCSDped2.m``, or from the masks if it is missing; if both disagree, a warning
    names the clips, and the intervals are used.

    References
    ----------
    .. [1] V. Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    """
    return _load_ucsd(Path(folder), "UCSDped2", subset, size, memmap)


@validated(**_READER, variant=[StrOptions(set(UMN_IRREGULAR))])
def load_umn(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    variant: str = "A",
    memmap: str | Path | None = None,
) -> Bunch:
    """Read UMN: crowds that start to run, 11 clips of 3 scenes in one video.

    Parameters
    ----------
    folder : str or Path
        ``Crowd-Activity-All.avi``, or its folder.
    subset : {"train", "test"}, default="train"
        The first clip of each scene until its crowd begins to run, or all other clips.
    size : tuple (height, width), default=None
        Size of the frames; 240 x 320 when None.
    variant : {"A", "B"}, default="A"
        The published set of intervals: A has 1138 irregular frames of 7739; in B intervals begin
        earlier, and there are 1451.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W); ``clips`` int (n,), 1 to 11; ``scenes`` int (n,), 1 to 3;
        ``labels`` int (n,), -1 or 1; ``masks`` None, as there are none.

    Notes
    -----
    A caption is shown at the top while a crowd runs. The upper tenth of every frame is set to 0,
    as the caption would reveal the label.

    References
    ----------
    .. [1] R. Mehran, A. Oyama, M. Shah, "Abnormal crowd behavior detection using social force
       model", CVPR 2009.
    """
    path = Path(folder)
    if path.is_dir():
        path = path / "Crowd-Activity-All.avi"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; UMN comes from {UMN_ADDRESS}, as one video, "
            "Crowd-Activity-All.avi."
        )
    ids, scenes, labels, is_before = _umn_labels(variant)
    firsts = np.isin(ids, UMN_FIRSTS)
    chosen = firsts & is_before if subset == "train" else ~firsts

    def frames() -> Iterator[NDArray[Any]]:
        n = 0
        for frame in read_frames(path, size=check_size(size)):
            if n < len(chosen) and chosen[n]:
                image = frame.image.copy()
                image[: math.ceil(UMN_CAPTION * len(image))] = 0
                yield image
            n += 1
        if n != len(ids):
            raise ValueError(
                f"{path} has {n} frames, but the labels belong to a video of {len(ids)}; "
                f"get it from {UMN_ADDRESS}."
            )

    kept = cache_path(memmap, f"umn-{subset}-{variant}", [path], size)
    return Bunch(
        frames=collect(frames(), kept),
        clips=ids[chosen],
        scenes=scenes[chosen],
        labels=labels[chosen],
        masks=None,
    )


@validated(**_READER, drop=[tuple, list])
def load_avenue(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    drop: Sequence[int] = (),
    memmap: str | Path | None = None,
) -> Bunch:
    """Read CUHK Avenue: a camera in front of a subway entrance.

    Parameters
    ----------
    folder : str or Path
        Folder with ``training_videos``, ``testing_videos`` and
        ``ground_truth_demo/testing_label_mask``.
    subset : {"train", "test"}, default="train"
        16 clips of 15328 normal frames, or 21 clips of 15324 frames with masks.
    size : tuple (height, width), default=None
        Size of the frames and masks; 360 x 640 when None.
    drop : sequence of int, default=()
        Numbers of clips to leave out. Test clips without (1, 2, 8, 9, 10), which have unlabelled
        static irregularities, are known as Avenue17; all clips are used for training.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`; recommended without ``size``, as the test masks take 3.5 GB.

    Returns
    -------
    data : Bunch
        As in `load_ucsd_ped2`; labels come from the masks.

    References
    ----------
    .. [1] C. Lu, J. Shi, J. Jia, "Abnormal Event Detection at 150 FPS in Matlab", ICCV 2013.
    """
    root, part = Path(folder), "training_videos" if subset == "train" else "testing_videos"
    paths = {int(p.stem): p for p in sorted((root / part).glob("[0-9][0-9].avi"))}
    if not paths:
        raise FileNotFoundError(
            f"{root / part} holds no 01.avi, 02.avi...; CUHK Avenue comes from {AVENUE_ADDRESS}, "
            "unpacked as training_videos/01.avi, testing_videos/01.avi and "
            "ground_truth_demo/testing_label_mask/1_label.mat."
        )
    if not set(drop) < set(paths):
        raise ValueError(
            f"drop must be some of the clips {list(paths)} in {root / part}. Got {drop!r}."
        )
    where = root / "ground_truth_demo" / "testing_label_mask"
    clips = [
        Clip(number, p, where / f"{number}_label.mat" if subset == "test" else None)
        for number, p in paths.items()
        if number not in drop
    ]
    if subset == "test":
        check_files((c.masks for c in clips if c.masks), "CUHK Avenue", AVENUE_ADDRESS)
    return load_clips("avenue", clips, subset, size, memmap, mat_masks)


@validated(**_READER)
def load_shanghaitech(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read ShanghaiTech Campus: clips of 13 cameras.

    Parameters
    ----------
    folder : str or Path
        Folder with ``training/videos`` (or ``training/converted_videos`` or ``training/frames``),
        ``testing/frames``, ``testing/test_frame_mask`` and ``testing/test_pixel_mask``.
    subset : {"train", "test"}, default="train"
        330 clips of normal frames, or 107 clips of 40791 frames with masks.
    size : tuple (height, width), default=None
        Size of the frames and masks; 480 x 856 when None.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`; required on most machines without ``size``.

    Returns
    -------
    data : Bunch
        As in `load_ucsd_ped2`, with ``scenes`` int (n,), the camera. Clips are numbered from 0 in
        the order of their names. Labels come from ``test_frame_mask``; if the pixel masks
        disagree, a warning names the clips.

    References
    ----------
    .. [1] W. Luo, W. Liu, S. Gao, "A Revisit of Sparse Coding Based Anomaly Detection in
       Stacked RNN Framework", ICCV 2017.
    """
    root = Path(folder) / ("training" if subset == "train" else "testing")
    sources: list[Path] = []
    for place in ("videos", "converted_videos", "frames"):
        # The official training clips are videos; converted copies exist, too.
        sources = sources or sorted(
            p
            for p in (root / place).glob("[!.]*")
            if re.fullmatch(r"\d+_\d+", p.stem) and (p.is_dir() or p.suffix.lower() in VIDEOS)
        )
    if not sources:
        raise FileNotFoundError(
            f"{root} holds no clips videos/01_001.avi or frames/01_0014/000.jpg; ShanghaiTech "
            f"Campus comes from {SHANGHAITECH_ADDRESS}, unpacked as training/videos/01_001.avi, "
            "testing/frames/01_0014/000.jpg, testing/test_frame_mask/01_0014.npy and "
            "testing/test_pixel_mask/01_0014.npy."
        )
    names = [p.stem for p in sources]
    marked = [root / "test_frame_mask" / f"{name}.npy" for name in names]
    drawn = [root / "test_pixel_mask" / f"{name}.npy" for name in names]
    if subset == "test":
        check_files([*marked, *drawn], "ShanghaiTech Campus", SHANGHAITECH_ADDRESS)
    clips = [
        Clip(index, p, drawn[index] if subset == "test" else None)
        for index, p in enumerate(sources)
    ]
    data = load_clips("shanghaitech", clips, subset, size, memmap, npy_masks)
    data.scenes = np.array([int(name.split("_")[0]) for name in names])[data.clips]
    if subset == "test":
        lengths = np.bincount(data.clips)
        of_masks, data.labels = (
            data.labels,
            np.concatenate([npy_labels(p, n) for p, n in zip(marked, lengths, strict=True)]),
        )
        named = dict(enumerate(names))
        warn_of_disagreement(data, of_masks, named, "test_frame_mask", first=0, stacklevel=4)
    return data


@validated(**_READER, category=[str, None], color=["boolean"])
def load_mvtec(
    folder: str | Path,
    category: str | None = None,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    color: bool = True,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read a category of MVTec AD or of another data set in one of its layouts.

    Parameters
    ----------
    folder : str or Path
        Folder of the categories.
    category : str, default=None
        The category, such as "bottle". None: ``folder`` is a category itself.
    subset : {"train", "test"}, default="train"
        Normal images, or images of both kinds with masks.
    size : tuple (height, width), default=None
        Size of the images and masks; their common size when None.
    color : bool, default=True
        Whether to read red, green and blue.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`.

    Returns
    -------
    data : Bunch
        ``images`` uint8 (n, H, W, 3) or (n, H, W); ``labels`` int (n,), -1 or 1; ``masks`` bool
        (n, H, W), or None for training images and where nobody drew masks; ``kinds`` list of str,
        "good" or the defect; ``paths`` list of Path.

    Warns
    -----
    UserWarning
        If there are no masks at all, or masks of defects are empty.

    Notes
    -----
    Known layouts are those of MVTec AD and BTAD; of MVTec LOCO, where an image has a folder of
    masks; of MVTec AD 2, whose public test images are read; of MVTec 3D, whose colour images are
    read; and of VisA, split by ``split_csv/1cls.csv``. Images are normal in folders named good,
    ok, normal, regular or free, in any case. Masks are named like their images, with or without
    ``_mask``, ``_gt`` and the like; values other than 0 are irregular.

    References
    ----------
    .. [1] P. Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised
       Anomaly Detection", CVPR 2019.
    """
    root = Path(folder) if category is None else Path(folder) / category
    is_visa = (root / "Data" / "Images").is_dir()
    found = _visa_images(root, subset) if is_visa else _mvtec_images(root, subset)
    paths, kinds, places = map(list, zip(*found, strict=True))
    name = f"{root.resolve().name}-{subset}-{'color' if color else 'grey'}"
    drawn: list[Path | None] | None = None
    if subset == "test":
        drawn = [None] * len(paths)
        rows = [row for row, kind in enumerate(kinds) if not is_normal(kind)]
        wanted = [(places[row], paths[row]) for row in rows]
        masks = find_masks(wanted)
        if any(masks):
            for row, mask in zip(rows, check_masks(masks, wanted), strict=True):
                drawn[row] = mask
        elif rows:
            warnings.warn(
                f"{root} holds no masks, such as {places[rows[0]] / paths[rows[0]].stem}_mask"
                ".png; only labels are known.",
                UserWarning,
                stacklevel=3,
            )
            drawn = None
    return _load_images(name, paths, kinds, drawn, size, memmap, color=color)


def _mvtec_images(root: Path, subset: str) -> list[tuple[Path, str, Path]]:
    """List images with their kinds and the folders of their masks."""
    part, beside = root / subset, root / "ground_truth"
    if subset == "test" and not part.is_dir() and (root / "test_public").is_dir():
        part, beside = root / "test_public", root / "test_public" / "ground_truth"  # AD 2
    found = []
    for kind in list_folders(part):
        if kind == beside:
            continue
        if (kind / "rgb").is_dir():  # 3D
            found += [(path, kind.name, kind / "gt") for path in list_pictures(kind / "rgb")]
        else:
            found += [(path, kind.name, beside / kind.name) for path in list_pictures(kind)]
    if not found:
        categories = [p.name for p in list_folders(root) if (p / "train").is_dir()]
        if categories:
            raise FileNotFoundError(
                f"{root} holds the categories {listed(categories)}; give one of them, such as "
                f"{root / categories[0]}."
            )
        raise FileNotFoundError(
            f"{root / subset} holds no images good/000.png; MVTec AD comes from "
            f"{MVTEC_ADDRESS}, unpacked as CATEGORY/train/good/000.png, CATEGORY/test/DEFECT/"
            "000.png and CATEGORY/ground_truth/DEFECT/000_mask.png. The layouts of MVTec LOCO, "
            "AD 2 and 3D, BTAD and VisA are known, too; other folders are read by load_folder."
        )
    return found


def _visa_images(root: Path, subset: str) -> list[tuple[Path, str, Path]]:
    """List the images of a category of VisA with their kinds and the folder of their masks."""
    path = root.parent / "split_csv" / "1cls.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; it says which images of VisA are to train.")
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["object"], row["split"]) == (root.name, subset):
                image = root.parent / row["image"]
                found.append((image, row["label"], root / "Data" / "Masks" / image.parent.name))
    if not found:
        raise ValueError(f"{path} lists no image of {root.name} to {subset} on.")
    return found


@validated(
    **(_READER | {"size": [tuple, list]}),
    n_train=[Interval(Integral, 1, None, closed="left")],
    random_state=[Interval(Integral, 0, 2**32 - 1, closed="both")],
)
def load_magnetic_tiles(
    folder: str | Path,
    *,
    size: tuple[int, int],
    subset: str = "train",
    n_train: int = 300,
    random_state: int = 0,
) -> Bunch:
    """Read magnetic tile defects: grey images from a production line.

    Parameters
    ----------
    folder : str or Path
        Folder with ``MT_Free``, ``MT_Blowhole``, ``MT_Break``, ``MT_Crack``, ``MT_Fray`` and
        ``MT_Uneven``, each with ``Imgs``.
    size : tuple (height, width)
        Size of the images and masks, whose original sizes differ.
    subset : {"train", "test"}, default="train"
        ``n_train`` of the normal tiles, or the remaining normal and all defective tiles.
    n_train : int, default=300
        Number of normal tiles for training, drawn at random, as there is no official split.
    random_state : int, default=0
        Seed of the split; use the same for both subsets, so that they share no tile.

    Returns
    -------
    data : Bunch
        As in `load_mvtec`, in grey; ``kinds`` are "Free", "Blowhole", "Break", "Crack",
        "Fray" and "Uneven". Four masks of "Uneven" are empty in the published data, which a
        warning tells.

    References
    ----------
    .. [1] Y. Huang, C. Qiu, K. Yuan, "Surface defect saliency of magnetic tile", The Visual
       Computer 36, 2020. The authors request a citation.
    """
    root = Path(folder)
    of_kind = {
        kind.name.removeprefix("MT_"): [
            p for p in list_pictures(kind / "Imgs") if p.suffix != ".png"
        ]
        for kind in list_folders(root)
        if kind.name.startswith("MT_")
    }
    free = of_kind.pop("Free", [])
    if not free:
        raise FileNotFoundError(
            f"{root} holds no tiles MT_Free/Imgs/*.jpg; they come from {TILES_ADDRESS}, "
            "unpacked as MT_Free/Imgs/exp1.jpg, MT_Crack/Imgs/exp1.jpg and "
            "MT_Crack/Imgs/exp1.png, its mask."
        )
    if n_train >= len(free):
        raise ValueError(
            f"n_train must leave some of the {len(free)} normal tiles to test with. Got {n_train}."
        )
    order = check_random_state(random_state).permutation(len(free))
    if subset == "train":
        paths = [free[index] for index in np.sort(order[:n_train])]
        kinds = ["Free"] * n_train
    else:
        rest = [free[index] for index in np.sort(order[n_train:])]
        paths = rest + [p for some in of_kind.values() for p in some]
        kinds = ["Free"] * len(rest) + [k for k, some in of_kind.items() for _ in some]
    wanted = [(p.parent, p) for kind, p in zip(kinds, paths, strict=True) if kind != "Free"]
    masks = iter(check_masks(find_masks(wanted), wanted))
    drawn = [None if kind == "Free" else next(masks) for kind in kinds]
    return _load_images(
        "tiles", paths, kinds, drawn if subset == "test" else None, size, None, above=127
    )


@validated(**_READER, color=["boolean"])
def load_folder(
    folder: str | Path,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read a folder of videos, of folders of images, or of images.

    Parameters
    ----------
    folder : str or Path
        Each video in it is a clip; without videos, each folder of images is; without either, its
        images are single images. In natural order, without hidden files.
    size : tuple (height, width), default=None
        Size of the frames; their common size when None.
    color : bool, default=False
        Whether to read red, green and blue.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W) or (n, H, W, 3); ``clips`` int (n,), from 0 (single images
        are one clip); ``times`` float (n,), seconds from the beginning of the clip, for images at
        25 per second; ``names`` list of str, the names of the clips, or of single images.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from skavid.datasets import load_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for index in (1, 2, 10):
    ...         Image.fromarray(np.full((8, 8), index, np.uint8)).save(f"{folder}/img{index}.png")
    ...     data = load_folder(folder)
    >>> data.frames[:, 0, 0], data.names
    (array([ 1,  2, 10], dtype=uint8), ['img1.png', 'img2.png', 'img10.png'])
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    files = sorted((p for p in root.glob("[!.]*") if p.is_file()), key=natural)
    videos = [p for p in files if is_video(p)]
    sources = videos or [p for p in list_folders(root) if list_pictures(p)]
    pictures = list_pictures(root)
    if not sources and not pictures:
        raise ValueError(f"{root} holds no video, no folder of images and no image.")
    names = [p.name for p in sources or pictures]
    clips = [Clip(index, p) for index, p in enumerate(sources)] or [Clip(0, root)]
    frames, ids, times = read_clips("folder", clips, size, memmap, color=color)
    return Bunch(frames=frames, clips=ids, times=times, names=names)


def _load_images(
    name: str,
    paths: list[Path],
    kinds: list[str],
    drawn: list[Path | None] | None,
    size: Any,
    memmap: str | Path | None,
    *,
    color: bool = False,
    above: int = 0,
) -> Bunch:
    """Read single images, and masks of pixels above a value unless ``drawn`` is None."""
    scale = find_range(paths)
    images = collect(
        of_one_size((p, read_picture(p, size, color, scale)) for p in paths),
        cache_path(memmap, name, paths, size),
    )
    labels = np.array([1 if is_normal(kind) else -1 for kind in kinds])
    masks = None
    if drawn is not None:
        shape = images.shape[1:3]
        known = cache_path(memmap, f"{name}-masks", [*paths, *filter(None, drawn)], size)
        pairs = zip(drawn, paths, strict=True)
        masks = collect((read_mask(mask, p, shape, above=above) for mask, p in pairs), known)
        empty = np.flatnonzero((labels == -1) & ~np.array([mask.any() for mask in masks]))
        if len(empty):
            verb = "is" if len(empty) == 1 else "are"
            warnings.warn(
                f"{counted(len(empty), 'mask')} of irregular images {verb} empty, such as that of "
                f"{paths[empty[0]]}; their labels stay -1.",
                UserWarning,
                stacklevel=4,
            )
    return Bunch(images=images, labels=labels, masks=masks, kinds=kinds, paths=paths)


def _load_ucsd(root: Path, name: str, subset: str, size: Any, memmap: str | Path | None) -> Bunch:
    part = subset.capitalize()
    folders = [p for p in list_folders(root / part) if re.fullmatch(rf"{part}\d\d\d", p.name)]
    if not folders:
        raise FileNotFoundError(
            f"{root / part} holds no clips {part}001, {part}002...; {name} comes from "
            f"{UCSD_ADDRESS}, unpacked as {name}/{part}/{part}001/001.tif."
        )
    beside = [p.with_name(f"{p.name}_gt") for p in folders]
    clips = [
        Clip(int(p.name[-3:]), p, drawn if subset == "test" and drawn.is_dir() else None)
        for p, drawn in zip(folders, beside, strict=True)
    ]
    if subset == "train":
        return load_clips(name, clips, subset, size, memmap, picture_masks)
    listed = sorted(p for p in (root / part).glob("[!.]*.m") if p.is_file())
    lacking = [clip.source.name for clip in clips if clip.masks is None]
    if lacking and not listed:
        raise FileNotFoundError(
            f"{root / part} lacks {name}.m, and {', '.join(lacking)} no masks, so that their "
            f"labels are unknown; {name} comes from {UCSD_ADDRESS}."
        )
    data = load_clips(name, clips, subset, size, memmap, picture_masks)
    if listed:
        drawn, data.labels = data.labels, read_intervals(listed[0], data.clips)
        names = {clip.number: clip.source.name for clip in clips}
        warn_of_disagreement(data, drawn, names, listed[0].name, first=1, stacklevel=5)
    return data


def _umn_labels(variant: str) -> tuple[NDArray[Any], ...]:
    """Return clip, scene and label of each frame, and whether its crowd has not run yet."""
    lengths = [last - first + 1 for first, last in UMN_CLIPS]
    ids = np.repeat(np.arange(1, len(UMN_CLIPS) + 1), lengths)
    labels = np.ones(len(ids), dtype=int)
    is_before = np.zeros(len(ids), dtype=bool)
    for (begin, _), (first, last) in zip(UMN_CLIPS, UMN_IRREGULAR[variant], strict=True):
        labels[first : last + 1] = -1
        is_before[begin:first] = True
    return ids, np.repeat(UMN_SCENES, lengths), labels, is_before
