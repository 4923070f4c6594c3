"""What commands write: tables, masks, boxes; each of them whole, or not at all."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skavid.core.anomaly_maps import Finding
from skavid.core.images import resize
from skavid.video.decoding import import_pillow
from skavid.writing import beside, naming, opened, part_of

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

Row = dict[str, Any]
TABLES = (".csv", ".jsonl", ".parquet")


@contextmanager
def table(
    path: Path | None, columns: dict[str, type], *, as_json: bool = False
) -> Iterator[Callable[[list[Row]], None]]:
    """Open a table and give a function that writes rows; None is the standard output."""
    if path is None:
        with naming("the standard output"):
            write = _csv_or_json(sys.stdout, columns, as_json=as_json)
        yield naming("the standard output")(write)
        return
    if path.suffix.lower() == ".parquet":
        with _parquet(path, columns) as write:
            yield write
        return
    with opened(path, encoding="utf-8", newline="") as file:
        write = _csv_or_json(file, columns, as_json=path.suffix.lower() == ".jsonl")
        yield naming(path)(write)


def check_table(path: Path) -> None:
    """Refuse a table whose format cannot be had."""
    if path.suffix.lower() == ".parquet":
        _import_parquet()


def _csv_or_json(
    file: IO[str], columns: dict[str, type], *, as_json: bool
) -> Callable[[list[Row]], None]:
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    if not as_json:
        writer.writeheader()

    def write(rows: list[Row]) -> None:
        if as_json:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer.writerows(rows)
        file.flush()

    return write


@contextmanager
def _parquet(path: Path, columns: dict[str, type]) -> Iterator[Callable[[list[Row]], None]]:
    pyarrow, parquet = _import_parquet()
    types = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    waiting: list[Row] = []
    with beside(path) as part:
        with naming(path):
            writer = parquet.ParquetWriter(part, schema)

        def write(rows: list[Row], *, at_least: int = 2**14) -> None:
            waiting.extend(rows)
            if len(waiting) >= at_least:  # a group of rows wants to be large
                with naming(path):
                    writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
                waiting.clear()

        try:
            yield write
            write([], at_least=1)
        finally:
            with naming(path):
                writer.close()


def _import_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs PyArrow; pip install 'skavid[parquet]'.") from error
    return pyarrow, pyarrow.parquet


def check_folder(path: Path) -> None:
    """Refuse a folder that holds something."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} is there already; give a new or an empty folder.")


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``path`` if nothing is raised."""
    check_folder(path)
    part = part_of(path)
    with naming(path):
        part.mkdir()
    try:
        yield part
        with naming(path):
            if path.exists():
                path.rmdir()
            os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_picture(folder: Path, name: str, picture: NDArray[np.uint8]) -> None:
    """Write a png into a folder, making those that its name has; the folder itself is there."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    import_pillow().fromarray(picture).save(path, format="PNG")


def described(
    findings: list[Finding], mask: NDArray[np.bool_], size: tuple[int, int]
) -> list[Row]:
    """Describe patches in the pixels of the picture that a map was made of: as COCO has it.

    ``bbox`` is [left, top, width, height]; ``peak_at`` is [x, y]; ``segmentation`` counts
    pixels down the columns, in turn outside and inside (an uncompressed RLE).
    """
    if not findings:
        return []
    small, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    patches = resize(small, size)
    boxes = ndimage.find_objects(patches)
    rows = []
    for one in findings:
        number = int(small[one.peak_at])
        box = boxes[number - 1]
        if box is None:  # a patch that has no pixel in a smaller picture
            continue
        top, left = box[0].start, box[1].start
        inside = patches == number
        rows.append(
            {
                "bbox": [left, top, box[1].stop - left, box[0].stop - top],
                "area": int(inside.sum()),
                "peak": one.peak,
                "peak_at": [
                    int((one.peak_at[axis] + 0.5) * size[axis] / small.shape[axis])
                    for axis in (1, 0)
                ],
                "carried_by": one.carried_by,
                "segmentation": {"size": list(size), "counts": _runs(inside)},
            }
        )
    return rows


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    column_by_column = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(column_by_column[1:] != column_by_column[:-1])
    counts: list[int] = np.diff(changes, prepend=0, append=mask.size).tolist()
    return counts


class CocoWriter:
    """Write pictures and their patches as COCO has it, without holding them in memory."""

    def __init__(self, path: Path, info: Row) -> None:
        self.path = path
        self.info = info
        self._images: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._patches: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.n_images = self.n_patches = 0

    def __enter__(self) -> CocoWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with naming(self.path), self._images, self._patches:
            if error is None:
                self._join()

    def write(self, image: Row, patches: list[Row]) -> None:
        """Add a picture and its patches."""
        with naming(self.path):
            self._write(image, patches)

    def _write(self, image: Row, patches: list[Row]) -> None:
        self.n_images += 1
        comma = ",\n" if self.n_images > 1 else ""
        self._images.write(comma + json.dumps({"id": self.n_images, **image}))
        for patch in patches:
            self.n_patches += 1
            comma = ",\n" if self.n_patches > 1 else ""
            entry = {"id": self.n_patches, "image_id": self.n_images, "category_id": 1}
            self._patches.write(
                comma + json.dumps({**entry, "iscrowd": 1, **patch, "score": patch["peak"]})
            )

    def _join(self) -> None:
        categories = [{"id": 1, "name": "irregular"}]
        head = f'{{"info": {json.dumps(self.info)},\n"categories": {json.dumps(categories)},\n'
        parts = [
            (head + '"images": [\n', self._images),
            ('\n],\n"annotations": [\n', self._patches),
        ]
        with opened(self.path, encoding="utf-8") as file:
            for begin, lines in parts:
                lines.seek(0)
                file.write(begin)
                shutil.copyfileobj(lines, file)
            file.write("\n]}\n")
