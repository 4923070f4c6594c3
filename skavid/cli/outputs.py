"""Output files of the commands: checks of their names, tables, images and COCO annotations.

Each file is written completely or not at all.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skavid.core.anomaly_maps import AnomalyMaps, Finding
from skavid.core.images import resize
from skavid.datasets.sources import Sample, Source
from skavid.video import draw_overlay
from skavid.video.pictures import import_pillow
from skavid.wording import either
from skavid.writing import beside, check_target, naming, opened, part_of

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

Row = dict[str, Any]
TABLES = (".csv", ".jsonl", ".parquet")


@contextmanager
def table(
    path: Path | None, columns: dict[str, type], *, as_json: bool = False
) -> Iterator[Callable[[list[Row]], None]]:
    """Open a table and yield a function that writes rows; None is the standard output."""
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


def check_file(option: str, path: Path | None, *suffixes: str) -> None:
    """Raise an error if a file has none of the suffixes, or cannot be written."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must end with {either(suffixes)}. Got {path}.")
    check_target(path, f"for {option}")


def check_targets(
    targets: Mapping[str, Path | None],
    sources: Sequence[Source],
    model: Path | None = None,
    force: bool = False,
) -> None:
    """Raise an error if an output would replace a source, the model or another output.

    Any other file that exists is replaced only with ``force``.
    """
    read = [path for source in sources for path in (Path(source.path), *source.pictures)]
    known = {path.resolve(): "is one of the sources" for path in read}
    if model is not None:
        known[model.resolve()] = "is the model"
    for option, path in targets.items():
        if path is None:
            continue
        if (use := known.get(path.resolve())) is not None:
            raise ValueError(f"{option} would replace {path}, which {use}; give another name.")
        if path.is_file() and not force:
            raise FileExistsError(
                f"{path} exists already; give another name for {option}, or --force to replace it."
            )
        known[path.resolve()] = f"{option} writes, too"


def temporary_folder(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder beside ``path`` for images that do not fit into memory."""
    with naming(path):
        return tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", dir=path.absolute().parent, ignore_cleanup_errors=True
        )


def check_table(path: Path) -> None:
    """Raise an error if the format of a table needs a package that is not installed."""
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
            if len(waiting) >= at_least:  # Parquet stores large groups of rows well
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
    """Raise an error unless a folder is new or empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; give a new or an empty folder.")


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to ``path`` if nothing is raised."""
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
    """Write a png into an existing folder, and make the subfolders that its name needs."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    import_pillow().fromarray(picture).save(path, format="PNG")


def in_square_pixels(picture: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:
    """Stretch a picture whose pixels are ``aspect`` times as wide as high, so that it looks right.

    A png holds square pixels. The longer side of a pixel becomes several pixels; none is lost.
    """
    if aspect == 1:
        return picture
    height, width = picture.shape[:2]
    size = round(width * max(aspect, 1)), round(height * max(1 / aspect, 1))
    stretched: NDArray[np.uint8] = np.asarray(import_pillow().fromarray(picture).resize(size))
    return stretched


def original_size(sample: Sample) -> tuple[int, int]:
    """Return the height and width of the original image."""
    image = sample.image if sample.display_image is None else sample.display_image
    height, width = image.shape[:2]
    return height, width


def in_original(values: NDArray[Any], sample: Sample, fill: Any = 0) -> NDArray[Any]:
    """Resize a map to its place in the original image; ``fill`` is the value around it."""
    size = original_size(sample)
    if sample.box is None or sample.display_image is None:
        return np.asarray(resize(values, size))
    left, top, width, height = sample.box
    placed = np.full(size, fill, values.dtype)
    placed[top : top + height, left : left + width] = resize(values, (height, width))
    return placed


def draw_results(
    sample: Sample, maps: AnomalyMaps, row: int, ignored: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """Draw the mask and the regularity of an image over its original."""
    assert sample.display_image is not None
    return draw_overlay(
        sample.display_image,
        mask=in_original(maps.evidence[row] >= 0, sample),
        regularity=in_original(maps.regularity[row], sample, fill=1),
        ignore_mask=None if ignored is None else in_original(ignored, sample, fill=True),
    )


def describe_patches(
    findings: list[Finding],
    mask: NDArray[np.bool_],
    sample: Sample,
    *,
    encode: Callable[[NDArray[np.bool_]], Row] | None = None,
) -> list[Row]:
    """Describe irregular patches in the pixels of the original image, as COCO does.

    ``bbox`` is [left, top, width, height] and ``peak_at`` is [x, y]. ``encode`` turns the mask
    of a patch into its ``segmentation``, which is left out otherwise.
    """
    if not findings:
        return []
    labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
    resized = in_original(labels, sample)
    size = original_size(sample)
    place = sample.box or (0, 0, size[1], size[0])
    boxes = ndimage.find_objects(resized, max_label=n)
    rows = []
    for finding in findings:
        label = int(labels[finding.peak_at])
        box = boxes[label - 1]
        if box is None:  # the patch has no pixel left in a smaller image
            continue
        top, left = box[0].start, box[1].start
        patch = resized == label
        row: Row = {
            "bbox": [left, top, box[1].stop - left, box[0].stop - top],
            "area": int(patch.sum()),
            "peak": finding.peak,
            "peak_at": [
                place[0] + int((finding.peak_at[1] + 0.5) * place[2] / labels.shape[1]),
                place[1] + int((finding.peak_at[0] + 0.5) * place[3] / labels.shape[0]),
            ],
            "carried_by": finding.carried_by,
        }
        if encode is not None:
            row["segmentation"] = encode(patch)
        rows.append(row)
    return rows


def encode_mask(mask: NDArray[np.bool_]) -> Row:
    """Encode a mask as a run-length encoding of COCO, compressed by pycocotools."""
    encoded = import_coco_mask().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def import_coco_mask() -> Any:
    """Import ``pycocotools.mask``, or raise an error that says how to install it."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("--coco needs pycocotools; pip install 'skavid[image]'.") from error
    return mask


class CocoWriter:
    """Write images and their irregular patches as COCO annotations, one image at a time."""

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
        """Add an image and its patches."""
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
