"""Data sets of Sec. 4.1 and their kin, read from the folders that their authors publish.

Floor 2, just above ``video`` and ``synthetic``: knows no network. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from skavid.synthetic import make_ir_mnist, make_moving_shapes
from skavid.video import PICTURES, read_frames, save_frames

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
LARGEST_TEXT = 2**20
VIDEOS = {".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"}

# UMN, frames from 0, ends included: clips, where each becomes irregular, scene of each.
UMN_CLIPS = (
    (0, 624), (625, 1452), (1453, 2001), (2002, 2686), (2687, 3454), (3455, 4033), (4034, 4928),
    (4929, 5595), (5596, 6253), (6254, 6930), (6931, 7738),
)  # fmt: skip
UMN_SCENES = (1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3)
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
UMN_CAPTION = 24 / 240  # share of the rows, at the top, that hold it

_READER: dict[str, list[Any]] = {
    "folder": [str, Path],
    "subset": [StrOptions({"train", "test"})],
    "size": [tuple, list, None],
    "memmap": [str, Path, None],
}


class _Clip(NamedTuple):
    """A clip of a data set: its number, where its frames are, where its masks are."""

    number: int
    source: Path
    masks: Any = None


def load_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read an array of bytes in the IDX format of MNIST, gzipped or not.

    Parameters
    ----------
    path : str or Path
        ``train-images-idx3-ubyte.gz``, say.

    Returns
    -------
    array : ndarray, uint8
        Of the shape that the file's header names.

    Raises
    ------
    FileNotFoundError
        If there is no such file; it says where MNIST comes from.
    ValueError
        If the file is not IDX, not of bytes, or shorter or longer than its header says.

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
                raise ValueError(f"{path} is not an IDX file of bytes; its head is {head!r}.")
            sizes = file.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise ValueError(f"{path} is cut off within its head; get it anew.")
            shape = struct.unpack(f">{head[3]}I", sizes)
            n_bytes = math.prod(shape)
            if n_bytes > LARGEST_IDX:
                raise ValueError(f"{path} claims to hold {n_bytes} bytes, more than 2 GiB.")
            body = file.read(n_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is cut off or damaged, or not gzipped; get it anew.") from error
    if len(body) != n_bytes:
        found = "more" if len(body) > n_bytes else len(body)
        raise ValueError(f"{path} should hold {n_bytes} bytes, but holds {found}; get it anew.")
    return np.frombuffer(bytearray(body), np.uint8).reshape(shape)


@validate_params(_READER, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def load_ucsd_ped1(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read UCSD Ped1: a camera along a walkway, people walking towards it and away.

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
        As `load_ucsd_ped2` returns it. Ten of the test clips have masks: ``has_masks`` tells
        which frames, the masks of the others are empty.

    Raises
    ------
    FileNotFoundError
        If the clips are not there; it says where they come from and the layout expected.
    ValueError
        If a clip has another number of masks than frames, or frames differ in size.

    References
    ----------
    .. [1] V. Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    """
    return _load_ucsd(Path(folder), "UCSDped1", subset, size, memmap)


@validate_params(_READER, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def load_ucsd_ped2(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read UCSD Ped2: a fixed camera above a walkway.

    Parameters
    ----------
    folder : str or Path
        ``UCSDped2``, which holds ``Train`` and ``Test``.
    subset : {"train", "test"}, default="train"
        16 clips of 2550 normal frames, or 12 clips of 2010 frames with masks.
    size : tuple (height, width), default=None
        Size of the frames and masks; 240 x 360 when None. Frames are averaged, a mask's pixel
        is set where any pixel below it is.
    memmap : str or Path, default=None
        A folder to keep decoded frames and masks in, from where they are mapped into memory, by
        the next call at once. None reads them into memory.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W); ``clips`` int (n,), from 1; ``labels`` int (n,), -1 for frames
        with an irregularity, else 1; ``masks`` bool (n, H, W), or None for training frames;
        ``has_masks`` bool (n,), whether somebody drew one, or None.

    Raises
    ------
    FileNotFoundError
        If the clips are not there; it says where they come from and the layout expected.
    ValueError
        If a clip has another number of masks than frames, or frames differ in size.

    Notes
    -----
    The official archive holds TIFF frames and BMP masks; JPEG and PNG copies in the same folders
    are read, too. The masks of some clips are called ``001``, of others ``frame001``. Labels come
    from the intervals of ``UCSDped2.m``, or from the masks where it is missing; where these
    disagree a warning names the clips, and the intervals count.

    References
    ----------
    .. [1] V. Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    """
    return _load_ucsd(Path(folder), "UCSDped2", subset, size, memmap)


@validate_params(  # type: ignore[untyped-decorator]
    {**_READER, "variant": [StrOptions(set(UMN_IRREGULAR))]},
    prefer_skip_nested_validation=True,
)
def load_umn(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    variant: str = "A",
    memmap: str | Path | None = None,
) -> Bunch:
    """Read UMN: crowds that suddenly run, 11 clips of 3 scenes in one video.

    Parameters
    ----------
    folder : str or Path
        ``Crowd-Activity-All.avi``, or the folder that holds it.
    subset : {"train", "test"}, default="train"
        The first clip of each scene without its irregular part, or all other clips.
    size : tuple (height, width), default=None
        Size of the frames; 240 x 320 when None.
    variant : {"A", "B"}, default="A"
        Which of the two published sets of intervals to take: A has 1138 irregular frames of
        7739, B begins them earlier and has 1451.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W); ``clips`` int (n,), 1 to 11; ``scenes`` int (n,), 1 to 3;
        ``labels`` int (n,), -1 or 1; ``masks`` None: there are none.

    Raises
    ------
    FileNotFoundError
        If the video is not there; it says where it comes from.
    ValueError
        If the video has another number of frames than the 7739 that the intervals belong to.

    Notes
    -----
    A caption is burnt in at the top while a crowd runs. The upper tenth of every frame is made
    black, or the caption would give the label away.

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
    ids, scenes, labels = _umn_labels(variant)
    firsts = np.isin(ids, [1, 3, 9])
    chosen = firsts & (labels == 1) if subset == "train" else ~firsts

    def frames() -> Iterator[NDArray[Any]]:
        n = 0
        for frame in read_frames(path, size=_check_size(size)):
            if n < len(chosen) and chosen[n]:
                image = frame.image.copy()
                image[: math.ceil(UMN_CAPTION * len(image))] = 0
                yield image
            n += 1
        if n != len(ids):
            raise ValueError(
                f"{path} has {n} frames, but the known labels belong to a video of {len(ids)}; "
                f"get it from {UMN_ADDRESS}."
            )

    kept = _kept(memmap, f"umn-{subset}-{variant}", [path], size)
    return Bunch(
        frames=_collect(frames(), kept),
        clips=ids[chosen],
        scenes=scenes[chosen],
        labels=labels[chosen],
        masks=None,
    )


@validate_params(  # type: ignore[untyped-decorator]
    {**_READER, "drop": [tuple, list]},
    prefer_skip_nested_validation=True,
)
def load_avenue(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    drop: Sequence[int] = (),
    memmap: str | Path | None = None,
) -> Bunch:
    """Read CUHK Avenue: a camera before a subway entrance.

    Parameters
    ----------
    folder : str or Path
        Holds ``training_videos``, ``testing_videos`` and
        ``ground_truth_demo/testing_label_mask``.
    subset : {"train", "test"}, default="train"
        16 clips of 15328 normal frames, or 21 clips of 15324 frames with masks.
    size : tuple (height, width), default=None
        Size of the frames and masks; 360 x 640 when None.
    drop : sequence of int, default=()
        Clips to leave out. Without (1, 2, 8, 9, 10), whose standing irregularities nobody
        labelled, the test clips are called Avenue17.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`; wise without ``size``: the test masks alone take 3.5 GB.

    Returns
    -------
    data : Bunch
        As `load_ucsd_ped2` returns it; labels come from the masks.

    Raises
    ------
    FileNotFoundError
        If a folder or a mask is not there; it says where the data comes from.
    ValueError
        If a clip has another number of masks than frames, or a mask file is none.

    References
    ----------
    .. [1] C. Lu, J. Shi, J. Jia, "Abnormal Event Detection at 150 FPS in Matlab", ICCV 2013.
    """
    root, part = Path(folder), "training_videos" if subset == "train" else "testing_videos"
    paths = sorted(p for p in (root / part).glob("[0-9][0-9].avi") if int(p.stem) not in drop)
    if not paths:
        raise FileNotFoundError(
            f"{root / part} holds no 01.avi, 02.avi...; CUHK Avenue comes from {AVENUE_ADDRESS}, "
            "unpacked as training_videos/01.avi, testing_videos/01.avi and "
            "ground_truth_demo/testing_label_mask/1_label.mat."
        )
    where = root / "ground_truth_demo" / "testing_label_mask"
    clips = [
        _Clip(int(p.stem), p, where / f"{int(p.stem)}_label.mat" if subset == "test" else None)
        for p in paths
    ]
    return _load_clips("avenue", clips, subset, size, memmap, _mat_masks)


@validate_params(_READER, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def load_shanghaitech(
    folder: str | Path,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read ShanghaiTech Campus: 13 cameras.

    Parameters
    ----------
    folder : str or Path
        Holds ``training/videos`` (or ``training/frames``), ``testing/frames``,
        ``testing/test_frame_mask`` and ``testing/test_pixel_mask``.
    subset : {"train", "test"}, default="train"
        330 clips of normal frames, or 107 clips of 40791 frames with masks.
    size : tuple (height, width), default=None
        Size of the frames and masks; 480 x 856 when None.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`; needed for most machines without ``size``.

    Returns
    -------
    data : Bunch
        As `load_ucsd_ped2` returns it, with ``scenes`` int (n,), the camera, and ``names``, of
        the clips. Clips are numbered from 0 in the order of their names. Labels come from
        ``test_frame_mask``; where the masks of pixels disagree, a warning names the clips.

    Raises
    ------
    FileNotFoundError
        If a folder or a mask is not there; it says where the data comes from.
    ValueError
        If a clip has another number of masks than frames, or a mask file is none.

    References
    ----------
    .. [1] W. Luo, W. Liu, S. Gao, "A Revisit of Sparse Coding Based Anomaly Detection in
       Stacked RNN Framework", ICCV 2017.
    """
    root = Path(folder) / ("training" if subset == "train" else "testing")
    places = [root / "videos", root / "frames"]
    sources = sorted(
        (p for place in places for p in place.glob("[0-9]*_[0-9]*") if p.suffix in {"", ".avi"}),
        key=lambda p: p.stem,
    )
    if not sources:
        raise FileNotFoundError(
            f"{root} holds no clips videos/01_001.avi or frames/01_0014/000.jpg; ShanghaiTech "
            f"Campus comes from {SHANGHAITECH_ADDRESS}."
        )
    masks = root / "test_pixel_mask"
    clips = [
        _Clip(index, p, masks / f"{p.stem}.npy" if subset == "test" else None)
        for index, p in enumerate(sources)
    ]
    data = _load_clips("shanghaitech", clips, subset, size, memmap, _npy_masks)
    scenes = np.array([int(p.stem.split("_")[0]) for p in sources])
    data.scenes, data.names = scenes[data.clips], [p.stem for p in sources]
    if subset == "test":
        drawn = data.labels
        data.labels = np.concatenate(
            [
                _frame_mask(
                    root / "test_frame_mask" / f"{p.stem}.npy", int((data.clips == k).sum())
                )
                for k, p in enumerate(sources)
            ]
        )
        _warn_where_apart(data.labels, drawn, [data.names[k] for k in data.clips], "frame masks")
    return data


@validate_params(  # type: ignore[untyped-decorator]
    {**_READER, "category": [str, None], "color": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def load_mvtec(
    folder: str | Path,
    category: str | None = None,
    *,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    color: bool = True,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read a category of MVTec AD, or of one of the many data sets in its layout.

    Parameters
    ----------
    folder : str or Path
        Holds the categories.
    category : str, default=None
        "bottle", say; None: the folder itself is one.
    subset : {"train", "test"}, default="train"
        Normal images, or both kinds with masks.
    size : tuple (height, width), default=None
        Size of the images and masks; their own, which must be one, when None.
    color : bool, default=True
        Whether to read red, green and blue.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`.

    Returns
    -------
    data : Bunch
        ``images`` uint8 (n, H, W, 3) or (n, H, W); ``labels`` int (n,), -1 or 1; ``masks`` bool
        (n, H, W), or None for training images; ``kinds`` list of str, "good" or the defect;
        ``paths`` list of Path.

    Raises
    ------
    FileNotFoundError
        If the images or the mask of an irregular one are not there; it says where MVTec AD
        comes from.
    ValueError
        If images differ in size and ``size`` is None.

    References
    ----------
    .. [1] P. Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised
       Anomaly Detection", CVPR 2019.
    """
    root = Path(folder) if category is None else Path(folder) / category
    paths = [p for kind in _folders(root / subset) for p in _pictures(kind)]
    if not paths:
        raise FileNotFoundError(
            f"{root / subset} holds no pictures good/000.png; MVTec AD comes from "
            f"{MVTEC_ADDRESS}, unpacked as CATEGORY/train/good/000.png, CATEGORY/test/DEFECT/"
            "000.png and CATEGORY/ground_truth/DEFECT/000_mask.png."
        )
    kinds = [p.parent.name for p in paths]
    labels = np.where(np.array(kinds) == "good", 1, -1)
    name = f"{root.name}-{subset}-{'color' if color else 'grey'}"
    images = _collect((_picture(p, size, color) for p in paths), _kept(memmap, name, paths, size))
    masks = None
    if subset == "test":
        drawn = [
            None if kind == "good" else _mask_of(root / "ground_truth" / kind, path)
            for kind, path in zip(kinds, paths, strict=True)
        ]
        shape = images.shape[1:3]
        known = _kept(memmap, f"{name}-masks", [p for p in drawn if p is not None], size)
        masks = _collect((_mask(p, shape, size) for p in drawn), known)
    return Bunch(images=images, labels=labels, masks=masks, kinds=kinds, paths=paths)


@validate_params(  # type: ignore[untyped-decorator]
    {
        **_READER,
        "size": [tuple, list],
        "n_train": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def load_magnetic_tiles(
    folder: str | Path,
    *,
    size: tuple[int, int],
    subset: str = "train",
    n_train: int = 300,
    random_state: Any = 0,
) -> Bunch:
    """Read magnetic tile defects: grey images of a production line.

    Parameters
    ----------
    folder : str or Path
        Holds ``MT_Free``, ``MT_Blowhole``, ``MT_Break``, ``MT_Crack``, ``MT_Fray`` and
        ``MT_Uneven``, each with ``Imgs``.
    size : tuple (height, width)
        Size of the images and masks, whose own differ.
    subset : {"train", "test"}, default="train"
        ``n_train`` of the normal tiles, or the other normal and all faulty ones.
    n_train : int, default=300
        There is no official split: so many normal tiles, drawn by ``random_state``, train.
    random_state : int, RandomState instance or None, default=0
        Draws them; the same number for both subsets.

    Returns
    -------
    data : Bunch
        As `load_mvtec` returns it, grey; ``kinds`` are "Free", "Blowhole", "Break", "Crack",
        "Fray" and "Uneven". Four masks of "Uneven" are empty in the published data.

    Raises
    ------
    FileNotFoundError
        If the images or a mask are not there; it says where they come from.
    ValueError
        If ``n_train`` leaves no normal tile to test with.

    References
    ----------
    .. [1] Y. Huang, C. Qiu, K. Yuan, "Surface defect saliency of magnetic tile", The Visual
       Computer 36, 2020. The authors ask to be cited.
    """
    root = Path(folder)
    of_kind = {
        kind.name.removeprefix("MT_"): [p for p in _pictures(kind / "Imgs") if p.suffix != ".png"]
        for kind in _folders(root)
        if kind.name.startswith("MT_")
    }
    free = of_kind.pop("Free", [])
    if not free:
        raise FileNotFoundError(
            f"{root} holds no tiles MT_Free/Imgs/*.jpg; they come from {TILES_ADDRESS}"
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
    images = np.stack([_picture(p, size, False) for p in paths])
    masks = None
    if subset == "test":
        drawn = [
            None if k == "Free" else _mask_of(p.parent, p)
            for k, p in zip(kinds, paths, strict=True)
        ]
        masks = np.stack([_mask(p, images.shape[1:], size, above=127) for p in drawn])
    labels = np.where(np.array(kinds) == "Free", 1, -1)
    return Bunch(images=images, labels=labels, masks=masks, kinds=kinds, paths=paths)


@validate_params(  # type: ignore[untyped-decorator]
    {**_READER, "color": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def load_folder(
    folder: str | Path,
    *,
    size: tuple[int, int] | None = None,
    color: bool = False,
    memmap: str | Path | None = None,
) -> Bunch:
    """Read a folder of videos, of folders of pictures, or of pictures.

    Parameters
    ----------
    folder : str or Path
        Each video in it, or else each folder with pictures in it, is a clip; or else its own
        pictures are single images. In natural order, hidden ones left out.
    size : tuple (height, width), default=None
        Size of the frames; their own, which must be one, when None.
    color : bool, default=False
        Whether to read red, green and blue.
    memmap : str or Path, default=None
        As in `load_ucsd_ped2`.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W) or (n, H, W, 3); ``clips`` int (n,), from 0 (single images
        are one clip); ``names`` list of str, of the clips, or of single images.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there is nothing to read in it, or frames differ in size and ``size`` is None.

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
    files = sorted((p for p in root.glob("[!.]*") if p.is_file()), key=_natural)
    videos = [p for p in files if p.suffix.lower() in VIDEOS]
    sources = videos or [p for p in _folders(root) if _pictures(p)]
    pictures = _pictures(root)
    if not sources and not pictures:
        raise ValueError(f"{root} holds no video, no folder of pictures and no picture.")
    names = [p.name for p in sources or pictures]
    clips = [_Clip(index, p) for index, p in enumerate(sources)] or [_Clip(0, root)]
    frames, ids = _read_clips("folder", clips, size, memmap, color=color)
    return Bunch(frames=frames, clips=ids, names=names)


# --- UCSD and UMN --------------------------------------------------------------------------------


def _load_ucsd(root: Path, name: str, subset: str, size: Any, memmap: str | Path | None) -> Bunch:
    part = subset.capitalize()
    folders = [p for p in _folders(root / part) if re.fullmatch(rf"{part}\d\d\d", p.name)]
    if not folders:
        raise FileNotFoundError(
            f"{root / part} holds no clips {part}001, {part}002...; {name} comes from "
            f"{UCSD_ADDRESS}, unpacked as {name}/{part}/{part}001/001.tif."
        )
    beside = [p.with_name(f"{p.name}_gt") for p in folders]
    clips = [
        _Clip(int(p.name[-3:]), p, drawn if subset == "test" and drawn.is_dir() else None)
        for p, drawn in zip(folders, beside, strict=True)
    ]
    data = _load_clips(name, clips, subset, size, memmap, _picture_masks)
    if subset == "train":
        return data
    listed = sorted(p for p in (root / part).glob("[!.]*.m") if p.is_file())
    if listed:
        drawn = data.labels
        data.labels = _intervals(listed[0], data.clips)
        known = data.has_masks
        where = [f"{part}{clip:03d}" for clip in data.clips[known]]
        _warn_where_apart(data.labels[known], drawn[known], where, listed[0].name)
    elif not data.has_masks.all():
        lacking = sorted(set(data.clips[~data.has_masks].tolist()))
        raise FileNotFoundError(
            f"{root / part} lacks {name}.m, and clips {lacking} have no masks: nothing tells "
            f"their labels; {name} comes from {UCSD_ADDRESS}."
        )
    return data


def _intervals(path: Path, clips: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read gt_frame = [60:152]; of each clip, frames from 1, ends included."""
    text = path.read_bytes()[:LARGEST_TEXT].decode("latin-1")
    rows = re.findall(r"gt_frame\s*=\s*\[([^\]]*)\]", text)
    ids = np.unique(clips)
    if len(rows) != len(ids):
        raise ValueError(f"{path} lists {len(rows)} clips, but there are {len(ids)}.")
    labels = np.ones(len(clips), dtype=int)
    for clip, row in zip(ids, rows, strict=True):
        frames = np.flatnonzero(clips == clip)
        for interval in re.split(r"[,;\s]+", row.strip()):
            ends = [int(end) for end in re.findall(r"\d{1,9}", interval)]
            if not interval:
                continue
            if not 1 <= len(ends) <= 2 or not 1 <= ends[0] <= ends[-1] <= len(frames):
                raise ValueError(
                    f"{path} has the interval {interval[:40]!r} for clip {clip}, which has frames "
                    f"1 to {len(frames)}."
                )
            labels[frames[ends[0] - 1 : ends[-1]]] = -1
    return labels


def _umn_labels(
    variant: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    lengths = [last - first + 1 for first, last in UMN_CLIPS]
    ids = np.repeat(np.arange(1, len(UMN_CLIPS) + 1), lengths)
    labels = np.ones(len(ids), dtype=int)
    for first, last in UMN_IRREGULAR[variant]:
        labels[first : last + 1] = -1
    return ids, np.repeat(UMN_SCENES, lengths), labels


def _warn_where_apart(
    labels: NDArray[Any], drawn: NDArray[Any], clips: list[str], source: str
) -> None:
    apart = labels != drawn
    if apart.any():
        named = sorted({clip for clip, differs in zip(clips, apart, strict=True) if differs})
        warnings.warn(
            f"{source} and the masks of pixels disagree on {int(apart.sum())} frames of "
            f"{', '.join(named)}; the labels are those of {source}.",
            UserWarning,
            stacklevel=5,
        )


# --- clips ---------------------------------------------------------------------------------------


def _load_clips(
    name: str,
    clips: list[_Clip],
    subset: str,
    size: Any,
    memmap: str | Path | None,
    masks_of: Callable[[Any, tuple[int, int], Any], Iterable[NDArray[np.bool_]]],
) -> Bunch:
    """Read frames and masks of clips; labels come from the masks."""
    frames, ids = _read_clips(f"{name}-{subset}", clips, size, memmap)
    labels = np.ones(len(frames), dtype=int)
    if subset == "train":
        return Bunch(frames=frames, clips=ids, labels=labels, masks=None, has_masks=None)
    shape = frames.shape[1:3]

    def drawn() -> Iterator[NDArray[np.bool_]]:
        for clip in clips:
            n = int((ids == clip.number).sum())
            if clip.masks is None:
                yield from (np.zeros(shape, dtype=bool) for _ in range(n))
                continue
            count = 0
            for mask in masks_of(clip.masks, shape, size):
                count += 1
                yield mask
            if count != n:
                raise ValueError(
                    f"{clip.source} has {n} frames, but {clip.masks.name} beside it has {count} "
                    "masks; unpack the archive anew."
                )

    sources = [clip.masks for clip in clips if clip.masks is not None]
    masks = _collect(drawn(), _kept(memmap, f"{name}-masks", sources, size))
    for index, mask in enumerate(masks):
        labels[index] = -1 if mask.any() else 1
    have = np.isin(ids, [clip.number for clip in clips if clip.masks is not None])
    return Bunch(frames=frames, clips=ids, labels=labels, masks=masks, has_masks=have)


def _read_clips(
    name: str, clips: list[_Clip], size: Any, memmap: str | Path | None, *, color: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    size = _check_size(size)
    ids: list[int] = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for clip in clips:
            for frame in read_frames(clip.source, size=size, color=color):
                ids.append(clip.number)
                yield frame.image

    kept = _kept(memmap, f"{name}{'-color' * color}", [clip.source for clip in clips], size)
    numbers = None if kept is None else kept.with_suffix(".clips.npy")
    if kept is not None and kept.exists() and numbers is not None and numbers.exists():
        return _collect((), kept), np.load(numbers)
    if kept is not None:
        kept.unlink(missing_ok=True)
    images = _collect(frames(), kept)
    if numbers is not None:
        np.save(numbers, ids)
    return images, np.array(ids)


def _picture_masks(folder: Path, shape: Any, size: Any) -> Iterator[NDArray[np.bool_]]:
    # Some masks are called 001, some frame001: their last number tells their order.
    paths = sorted(_pictures(folder), key=lambda p: int((re.findall(r"\d+", p.stem) or ["0"])[-1]))
    for path in paths:
        yield _mask(path, shape, size)


def _mat_masks(path: Path, shape: Any, size: Any) -> Iterator[NDArray[np.bool_]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; CUHK Avenue comes from {AVENUE_ADDRESS}.")
    try:
        cells = np.ravel(loadmat(path, variable_names=["volLabel"])["volLabel"])
    except Exception as error:  # of many kinds, for files that are damaged in many ways
        raise ValueError(f"{path} is no file of masks (volLabel); get it anew.") from error
    for cell in cells:
        yield _shrink(np.asarray(cell) > 0, shape, size, path)


def _npy_masks(path: Path, shape: Any, size: Any) -> Iterator[NDArray[np.bool_]]:
    for mask in _read_npy(path, 3):
        yield _shrink(mask > 0, shape, size, path)


def _frame_mask(path: Path, n: int) -> NDArray[np.int64]:
    marked = _read_npy(path, 1)
    if len(marked) != n:
        raise ValueError(f"{path} has {len(marked)} labels, but its clip has {n} frames.")
    return np.where(marked > 0, -1, 1)


def _read_npy(path: Path, n_dims: int) -> NDArray[Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; ShanghaiTech Campus comes from {SHANGHAITECH_ADDRESS}."
        )
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no array of masks; get it anew.") from error
    if array.ndim != n_dims:
        raise ValueError(f"{path} holds an array of shape {array.shape}, not of {n_dims} axes.")
    return array


# --- pictures ------------------------------------------------------------------------------------


def _picture(path: Path, size: Any, color: bool) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = next(read_frames(path, size=_check_size(size), color=color)).image
    return image


def _mask_of(folder: Path, picture: Path) -> Path:
    for name in (f"{picture.stem}_mask.png", f"{picture.stem}.png"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{picture} has no mask {picture.stem}_mask.png in {folder}.")


def _mask(path: Path | None, shape: Any, size: Any, *, above: int = 0) -> NDArray[np.bool_]:
    if path is None:
        return np.zeros(shape, dtype=bool)
    whole = next(read_frames(path)).image
    return _shrink(whole > above, shape, size, path)


def _shrink(mask: NDArray[np.bool_], shape: Any, size: Any, path: Path) -> NDArray[np.bool_]:
    """Bring a mask to its frame's shape: a pixel is set where any pixel below it is."""
    if mask.ndim != 2 or (size is None and mask.shape != tuple(shape)):
        raise ValueError(f"{path} has a mask of shape {mask.shape}, but its frames have {shape}.")
    small: NDArray[np.bool_] = mask
    for axis, (whole, part) in enumerate(zip(mask.shape, shape, strict=True)):
        if whole == part:
            continue
        firsts = np.arange(part) * whole // part
        lasts = -(-np.arange(1, part + 1) * whole // part)
        none = np.zeros_like(small.take([0], axis), dtype=int)
        sums = np.concatenate([none, small.cumsum(axis)], axis)
        small = sums.take(lasts, axis) > sums.take(firsts, axis)
    return small


def _folders(root: Path) -> list[Path]:
    return sorted((p for p in root.glob("[!.]*") if p.is_dir()), key=_natural)


def _pictures(folder: Path) -> list[Path]:
    found = (p for p in folder.glob("[!.]*") if p.suffix.lower() in PICTURES)
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order img2 before img10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _check_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in size):
        raise ValueError(f"size must be (height, width) in whole pixels. Got {size!r}.")
    return int(size[0]), int(size[1])


# --- in memory or mapped -------------------------------------------------------------------------


def _kept(memmap: str | Path | None, name: str, sources: list[Path], size: Any) -> Path | None:
    """Name the file that holds decoded pictures: another source or size is another file."""
    if memmap is None:
        return None
    told = hashlib.sha256(repr(size and tuple(size)).encode())
    for source in sources:
        files = [source] if source.is_file() else _pictures(source)
        for file in files:
            stat = file.stat()
            told.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns};".encode())
    folder = Path(memmap)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{told.hexdigest()[:16]}.npy"


def _collect(pictures: Iterable[NDArray[Any]], kept: Path | None) -> NDArray[Any]:
    """Stack pictures in memory, or in a file that is written once and then mapped."""
    if kept is None:
        return np.stack(list(_alike(pictures)))
    mapped: NDArray[Any] = (
        np.load(kept, mmap_mode="r") if kept.exists() else save_frames(kept, pictures)
    )
    return mapped


def _alike(pictures: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    first = None
    for index, picture in enumerate(pictures):
        first = picture.shape if first is None else first
        if picture.shape != first:
            raise ValueError(
                f"Picture {index} has the shape {picture.shape}, those before it {first}; "
                "pass size=(height, width) to resize them."
            )
        yield picture
