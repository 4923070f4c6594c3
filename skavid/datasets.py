"""Data sets of Sec. 4.1: puzzles of digits (IR-MNIST) and UCSD Ped2.

Floor 2: NumPy and SciPy alone, Pillow only to decode pictures; knows no network.
"""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import zoom
from sklearn.utils import Bunch, check_random_state

__all__ = ["load_idx", "load_ucsd_ped2", "make_ir_mnist"]

UCSD_ADDRESS = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm"
MNIST_ADDRESS = "http://yann.lecun.com/exdb/mnist"
LARGEST_IDX = 2**31


def make_ir_mnist(
    digits: ArrayLike,
    labels: ArrayLike,
    *,
    n_train: int = 5000,
    n_test: int = 1000,
    grid: int = 11,
    cell: int = 28,
    withheld: int = 3,
    share_irregular: float = 0.5,
    test_share: float = 0.25,
    random_state: Any = None,
) -> Bunch:
    """Make the puzzles of IR-MNIST: grids of digits, one of which is never seen in training.

    Parameters
    ----------
    digits : array-like of shape (n_digits, h, w)
        Pictures of digits, from 0 to their maximum.
    labels : array-like of shape (n_digits,)
        Which digit each picture shows.
    n_train, n_test : int
        How many puzzles; the paper has 5000 and 1000.
    grid : int, default=11
        Digits along each side of a puzzle.
    cell : int, default=28
        Pixels along each side of a digit; pictures of another size are resized.
    withheld : int, default=3
        The digit that no training puzzle holds.
    share_irregular : float, default=0.5
        Share of the test puzzles that hold it: at its natural share among the digits, and at
        least once.
    test_share : float, default=0.25
        Share of the pictures that only test puzzles are made of.
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
        If pictures and labels differ in number or the withheld digit is missing.

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
    pictures, names = np.asarray(digits), np.asarray(labels)
    if len(pictures) != len(names):
        raise ValueError(
            f"digits has {len(pictures)} pictures, but labels has {len(names)}; give one each."
        )
    if not (names == withheld).any():
        raise ValueError(f"labels has no {withheld}, the digit to withhold; take another one.")
    rng = check_random_state(random_state)
    order = rng.permutation(len(names))
    n_shown = round((1 - test_share) * len(names))
    seen, fresh = order[:n_shown], order[n_shown:]
    train = rng.choice(seen[names[seen] != withheld], (n_train, grid, grid))
    test, odd = _test_cells(fresh, names, n_test, grid, withheld, share_irregular, rng)
    pictures = _resize(pictures, cell)
    return Bunch(
        train=_lay(pictures, train),
        test=_lay(pictures, test),
        labels=np.where(odd.any(axis=(1, 2)), -1, 1),
        region_labels=np.where(odd, -1, 1),
        masks=np.kron(odd, np.ones((1, cell, cell), dtype=bool)),
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
            n_bytes = int(np.prod([int(size) for size in shape], dtype=object))
            if n_bytes > LARGEST_IDX:
                raise ValueError(f"{path} claims to hold {n_bytes} bytes, more than 2 GiB.")
            body = file.read(n_bytes + 1)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut off or not gzipped; get it anew.") from error
    if len(body) != n_bytes:
        found = "more" if len(body) > n_bytes else len(body)
        raise ValueError(f"{path} should hold {n_bytes} bytes, but holds {found}; get it anew.")
    return np.frombuffer(body, np.uint8).reshape(shape)


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
    ImportError
        If Pillow is not installed.

    References
    ----------
    .. [1] V. Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010.
    """
    part = {"train": "Train", "test": "Test"}[subset]
    root = Path(folder) / part
    clips = sorted(p for p in root.glob(f"{part}[0-9][0-9][0-9]") if p.is_dir())
    if not clips:
        raise FileNotFoundError(
            f"{root} holds no clips {part}001, {part}002...; UCSD Ped2 comes from {UCSD_ADDRESS}, "
            f"unpacked as UCSDped2/{part}/{part}001/001.tif."
        )
    frames, ids, masks = [], [], []
    for clip in clips:
        paths = _pictures(clip)
        frames += [_read_picture(path, resize) for path in paths]
        ids += [int(clip.name[-3:])] * len(paths)
        if subset == "test":
            drawn = _pictures(clip.parent / f"{clip.name}_gt")
            masks += [_read_picture(path, resize, is_mask=True) for path in drawn]
            if len(drawn) != len(paths):
                raise ValueError(f"{clip} has {len(paths)} frames but {len(drawn)} masks.")
    drawn_masks = np.stack(masks) > 0 if masks else None
    labels = np.ones(len(frames), dtype=int)
    if drawn_masks is not None:
        labels[drawn_masks.any(axis=(1, 2))] = -1
    return Bunch(frames=np.stack(frames), clips=np.array(ids), labels=labels, masks=drawn_masks)


def _test_cells(
    fresh: NDArray[np.int64],
    names: NDArray[Any],
    n_test: int,
    grid: int,
    withheld: int,
    share_irregular: float,
    rng: np.random.RandomState,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Choose the pictures of the test puzzles, and say which are the withheld digit."""
    normal, odd = fresh[names[fresh] != withheld], fresh[names[fresh] == withheld]
    n_odd = round(share_irregular * n_test)
    where = np.zeros((n_test, grid * grid), dtype=bool)
    where[:n_odd] = rng.uniform(size=(n_odd, grid * grid)) < (names == withheld).mean()
    where[np.arange(n_odd), rng.randint(grid * grid, size=n_odd)] = True
    held = where[rng.permutation(n_test)].reshape(n_test, grid, grid)
    cells = rng.choice(normal, held.shape)
    cells[held] = rng.choice(odd, held.sum())
    return cells, held


def _resize(pictures: NDArray[Any], cell: int) -> NDArray[np.uint8]:
    scaled = pictures * (255.0 / pictures.max())
    if pictures.shape[1:] != (cell, cell):
        factors = (1, cell / pictures.shape[1], cell / pictures.shape[2])
        scaled = zoom(scaled, factors, order=1, grid_mode=True, mode="nearest")
    resized: NDArray[np.uint8] = np.round(scaled).clip(0, 255).astype(np.uint8)
    return resized


def _lay(pictures: NDArray[np.uint8], cells: NDArray[np.int64]) -> NDArray[np.uint8]:
    n, grid, _ = cells.shape
    side = grid * pictures.shape[1]
    return pictures[cells].transpose(0, 1, 3, 2, 4).reshape(n, side, side)


def _pictures(folder: Path) -> list[Path]:
    """List pictures in natural order: some masks are called 001, some frame001."""
    kinds = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}
    found = [p for p in folder.glob("[!.]*") if p.suffix.lower() in kinds]
    return sorted(found, key=lambda p: int((re.findall(r"\d+", p.stem) or ["0"])[-1]))


def _read_picture(
    path: Path, resize: tuple[int, int] | None, *, is_mask: bool = False
) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Pictures need Pillow; pip install 'skavid[image]'.") from error
    with Image.open(path) as opened:
        picture = opened.convert("L")
        if is_mask:
            picture = picture.point(lambda value: 255 if value else 0)
        if resize is not None:
            picture = picture.resize(resize[::-1], Image.Resampling.BOX)
        return np.array(picture)
