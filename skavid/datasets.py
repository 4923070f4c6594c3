"""Data sets of Sec. 4.1: puzzles of digits (IR-MNIST) and UCSD Ped2.

Floor 2: NumPy and SciPy alone, Pillow only to decode pictures; knows no network.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import zoom
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

__all__ = ["load_idx", "load_ucsd_ped2", "make_ir_mnist"]

UCSD_ADDRESS = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm"
MNIST_ADDRESS = "http://yann.lecun.com/exdb/mnist"
LARGEST_IDX = 2**31

_POSITIVE = [Interval(Integral, 1, None, closed="left")]


@validate_params(  # type: ignore[untyped-decorator]
    {
        "n_train": _POSITIVE,
        "n_test": _POSITIVE,
        "grid": _POSITIVE,
        "cell": _POSITIVE,
        "share_irregular": [Interval(Real, 0, 1, closed="both")],
        "share_withheld": [Interval(Real, 0, 1, closed="both"), StrOptions({"natural"})],
        "test_share": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_ir_mnist(
    digits: ArrayLike,
    labels: ArrayLike,
    *,
    test_digits: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    n_train: int = 5000,
    n_test: int = 1000,
    grid: int = 11,
    cell: int = 28,
    withheld: int = 3,
    share_irregular: float = 0.5,
    share_withheld: float | str = "natural",
    test_share: float = 0.25,
    random_state: Any = None,
) -> Bunch:
    """Make the puzzles of IR-MNIST: grids of digits, one of which is never seen in training.

    Parameters
    ----------
    digits : array-like of shape (n_digits, h, w)
        Pictures of digits, black at 0 and white at 255 (uint8) or at their maximum.
    labels : array-like of shape (n_digits,)
        Which digit each picture shows.
    test_digits, test_labels : array-like, default=None
        Pictures for the test puzzles, as MNIST has them. None keeps a share of ``digits`` for
        them, so that no picture is in both.
    n_train, n_test : int
        How many puzzles; the paper has 5000 and 1000.
    grid : int, default=11
        Digits along each side of a puzzle.
    cell : int, default=28
        Pixels along each side of a digit; pictures of another size are resized.
    withheld : int, default=3
        The digit that no training puzzle holds.
    share_irregular : float, default=0.5
        Share of the test puzzles that hold it.
    share_withheld : float or "natural", default="natural"
        How likely each cell of such a puzzle is to hold it; one cell does where chance gives it
        none. "natural" is its share among the pictures, a tenth in MNIST.
    test_share : float, default=0.25
        Share of the other digits' pictures that is kept for the test puzzles, without
        ``test_digits``.
    random_state : int, RandomState instance or None, default=None
        Chooses the pictures.

    Returns
    -------
    data : Bunch
        ``train`` uint8 (n_train, grid * cell, grid * cell); ``test`` the same for the test
        puzzles; ``labels`` (n_test,), -1 for puzzles with the withheld digit, else 1;
        ``region_labels`` (n_test, grid, grid), the same for cells; ``masks`` bool, as ``test``,
        True in the cells of withheld digits.

    Raises
    ------
    ValueError
        If pictures and labels do not fit each other, or there is no withheld digit to test
        with or no other one to train with.

    References
    ----------
    .. [1] Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection", ACCV 2018,
       Sec. 4.1. The paper does not say how many threes its test puzzles hold.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skavid.datasets import make_ir_mnist
    >>> digits = load_digits()
    >>> data = make_ir_mnist(
    ...     digits.images, digits.target, n_train=6, n_test=4, grid=3, cell=8, random_state=0
    ... )
    >>> data.train.shape, data.test.shape, sorted(data.labels.tolist())
    ((6, 24, 24), (4, 24, 24), [-1, -1, 1, 1])
    """
    rng = check_random_state(random_state)
    pictures, names = _check_digits(digits, labels, "digits", "labels")
    if test_digits is None:
        if test_labels is not None:
            raise ValueError("test_labels came without test_digits; give both or neither.")
        order = rng.permutation(len(names))
        shown, fresh = np.split(order, [round((1 - test_share) * len(names))])
        # No withheld digit is ever trained with, so that all of them may test.
        fresh = np.concatenate([fresh, shown[names[shown] == withheld]])
    else:
        more, more_names = _check_digits(test_digits, test_labels, "test_digits", "test_labels")
        if (more.shape[1:], more.dtype) != (pictures.shape[1:], pictures.dtype):
            raise ValueError(
                f"test_digits has pictures {_described(more)}, but digits has pictures "
                f"{_described(pictures)}; bring them to one size and dtype."
            )
        shown = np.arange(len(names))
        fresh = len(names) + np.arange(len(more_names))
        pictures, names = np.concatenate([pictures, more]), np.concatenate([names, more_names])
    normal, regular, odd = (
        _some(shown[names[shown] != withheld], f"other than {withheld} to train with"),
        _some(fresh[names[fresh] != withheld], f"other than {withheld} to test with"),
        _some(fresh[names[fresh] == withheld], f"{withheld} to test with"),
    )
    train = rng.choice(normal, (n_train, grid, grid))
    natural = float((names == withheld).mean())
    share = natural if isinstance(share_withheld, str) else share_withheld
    where = _place_withheld(n_test, grid, share_irregular, share, rng)
    test = rng.choice(regular, where.shape)
    test[where] = rng.choice(odd, where.sum())
    pictures = _resize(pictures, cell)
    return Bunch(
        train=_lay(pictures, train),
        test=_lay(pictures, test),
        labels=np.where(where.any(axis=(1, 2)), -1, 1),
        region_labels=np.where(where, -1, 1),
        masks=np.kron(where, np.ones((1, cell, cell), dtype=bool)),
    )


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


@validate_params(  # type: ignore[untyped-decorator]
    {
        "folder": [str, Path],
        "subset": [StrOptions({"train", "test"})],
        "resize": [tuple, list, None],
    },
    prefer_skip_nested_validation=True,
)
def load_ucsd_ped2(
    folder: str | Path, *, subset: str = "train", resize: tuple[int, int] | None = None
) -> Bunch:
    """Read UCSD Ped2: a fixed camera above a walkway.

    Parameters
    ----------
    folder : str or Path
        ``UCSDped2``, which holds ``Train`` and ``Test``.
    subset : {"train", "test"}, default="train"
        16 clips of 2550 normal frames, or 12 clips of 2010 frames with masks.
    resize : tuple (height, width), default=None
        Size of the frames and masks; 240 x 360 when None. Frames are averaged, a mask's pixel
        is set where any pixel below it is.

    Returns
    -------
    data : Bunch
        ``frames`` uint8 (n, H, W); ``clips`` int (n,), from 1; ``labels`` int (n,), -1 for frames
        with an irregularity, else 1; ``masks`` bool (n, H, W), or None for training frames.

    Raises
    ------
    FileNotFoundError
        If the clips are not there; it says where they come from and the layout expected.
    ValueError
        If a clip has another number of masks than frames, or frames differ in size.
    ImportError
        If Pillow is not installed.

    Notes
    -----
    The official archive holds TIFF frames and BMP masks; JPEG and PNG copies in the same folders
    are read, too. The masks of some clips are called ``001``, of others ``frame001``.

    References
    ----------
    .. [1] V. Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    """
    part = subset.capitalize()
    root = Path(folder) / part
    clips = sorted(p for p in root.glob(f"{part}[0-9][0-9][0-9]") if p.is_dir())
    if not clips:
        raise FileNotFoundError(
            f"{root} holds no clips {part}001, {part}002...; UCSD Ped2 comes from {UCSD_ADDRESS}, "
            f"unpacked as UCSDped2/{part}/{part}001/001.tif."
        )
    size = _check_size(resize)
    paths = [_pictures(clip) for clip in clips]
    frames = _read_pictures([path for some in paths for path in some], size, np.uint8)
    ids = np.repeat([int(clip.name[-3:]) for clip in clips], [len(some) for some in paths])
    labels = np.ones(len(frames), dtype=int)
    if subset == "train":
        return Bunch(frames=frames, clips=ids, labels=labels, masks=None)
    drawn = []
    for clip, some in zip(clips, paths, strict=True):
        beside = _pictures(root / f"{clip.name}_gt")
        if len(some) != len(beside):
            raise ValueError(
                f"{clip} has {len(some)} frames, but {clip.name}_gt beside it has {len(beside)} "
                "masks; unpack the archive anew."
            )
        drawn += beside
    masks = _read_pictures(drawn, size, np.bool_)
    labels[masks.any(axis=(1, 2))] = -1
    return Bunch(frames=frames, clips=ids, labels=labels, masks=masks)


def _check_digits(
    digits: Any, labels: Any, digits_name: str, labels_name: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    pictures, names = np.asarray(digits), np.asarray(labels)
    if pictures.ndim != 3 or 0 in pictures.shape:
        raise ValueError(
            f"{digits_name} must be pictures of shape (n_digits, h, w). Got {pictures.shape}."
        )
    if names.shape != pictures.shape[:1]:
        raise ValueError(
            f"{digits_name} has {len(pictures)} pictures, but {labels_name} has the shape "
            f"{names.shape}; give one label a picture."
        )
    if not 0 < pictures.max() < np.inf:  # False for NaN
        raise ValueError(
            f"{digits_name} must hold finite intensities, some above 0. Its maximum is "
            f"{pictures.max()}."
        )
    return pictures, names


def _described(pictures: NDArray[Any]) -> str:
    return f"of {pictures.shape[1]} x {pictures.shape[2]} {pictures.dtype}"


def _some(indices: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    if not len(indices):
        raise ValueError(
            f"labels leave no digit {what}; withhold another digit or give more pictures."
        )
    return indices


def _place_withheld(
    n_test: int, grid: int, share_irregular: float, share: float, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Choose the cells of the test puzzles that hold the withheld digit."""
    n_odd = round(share_irregular * n_test)
    where = np.zeros((n_test, grid * grid), dtype=bool)
    where[:n_odd] = rng.uniform(size=(n_odd, grid * grid)) < share
    one = rng.randint(grid * grid, size=n_odd)
    where[np.arange(n_odd), one] |= ~where[:n_odd].any(axis=1)
    mixed: NDArray[np.bool_] = where[rng.permutation(n_test)].reshape(n_test, grid, grid)
    return mixed


def _resize(pictures: NDArray[Any], cell: int) -> NDArray[np.uint8]:
    white = 255 if pictures.dtype == np.uint8 else pictures.max()
    scaled = pictures.astype(np.float32) * np.float32(255 / white)
    if pictures.shape[1:] != (cell, cell):
        factors = (1, cell / pictures.shape[1], cell / pictures.shape[2])
        scaled = zoom(scaled, factors, order=1, grid_mode=True, mode="nearest")
    resized: NDArray[np.uint8] = np.round(scaled).clip(0, 255).astype(np.uint8)
    return resized


def _lay(pictures: NDArray[np.uint8], cells: NDArray[np.int64]) -> NDArray[np.uint8]:
    n, grid, _ = cells.shape
    side = grid * pictures.shape[1]
    return pictures[cells].transpose(0, 1, 3, 2, 4).reshape(n, side, side)


def _check_size(resize: Any) -> tuple[int, int] | None:
    if resize is None:
        return None
    if len(resize) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in resize):
        raise ValueError(f"resize must be (height, width) in whole pixels. Got {resize!r}.")
    return int(resize[0]), int(resize[1])


def _pictures(folder: Path) -> list[Path]:
    """List pictures in natural order: some masks are called 001, some frame001."""
    kinds = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}
    found = [p for p in folder.glob("[!.]*") if p.suffix.lower() in kinds]
    return sorted(found, key=lambda p: int((re.findall(r"\d+", p.stem) or ["0"])[-1]))


def _read_pictures(
    paths: list[Path], size: tuple[int, int] | None, dtype: type[np.uint8 | np.bool_]
) -> NDArray[Any]:
    """Read grey pictures (uint8) or masks (bool), averaged or widened to a smaller size."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Pictures need Pillow; pip install 'skavid[image]'.") from error
    pictures: NDArray[Any] = np.empty((0, 0, 0), dtype)
    for index, path in enumerate(paths):
        with Image.open(path) as opened:
            picture = opened.convert("L")
        if dtype is np.bool_:
            # In floats, the mean of a shrunken mask is above 0 wherever one of its pixels is.
            picture = picture.convert("F")
        if size is not None:
            picture = picture.resize(size[::-1], Image.Resampling.BOX)
        if index == 0:
            pictures = np.empty((len(paths), picture.height, picture.width), dtype)
        if picture.size[::-1] != pictures.shape[1:]:
            raise ValueError(
                f"{path} has {picture.height} x {picture.width} pixels, but those before it have "
                f"{pictures.shape[1]} x {pictures.shape[2]}; pass resize."
            )
        pictures[index] = picture
    return pictures
