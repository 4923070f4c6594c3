"""Damaged and malicious files: read right, or refused by name; no crash, no hang, no code.

A process reads them that may die in our place. ``SKAVID_MUTATIONS`` says how many to try.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from skavid import AVIDDetector
from skavid.components import nested
from skavid.datasets.clips import mat_masks
from skavid.video import load_frames
from skavid.video.decoding import FFMPEG
from tests.hostile import Reader, damages

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
pytest.importorskip("safetensors")

if not os.path.isdir("/proc/self"):
    pytest.skip("the process measures itself by /proc", allow_module_level=True)

MUTATIONS = int(os.environ.get("SKAVID_MUTATIONS", "2200"))

FRAMES = np.random.default_rng(0).integers(0, 255, (6, 32, 48)).astype(np.uint8)
BYTES = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)


def video(codec, pixels, metadata=None):
    def write(path):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
            container.metadata.update(metadata or {})
            for image in FRAMES:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
            container.mux(stream.encode(None))

    return write


def picture(color=False, pages=1, deep=False, **options):
    def write(path):
        shown = [np.repeat(f[..., None], 3, 2) if color else f for f in FRAMES[:pages]]
        images = [Image.fromarray(one.astype(np.uint16) * 257 if deep else one) for one in shown]
        if pages > 1:
            options.update(save_all=True, append_images=images[1:])
        images[0].save(path, **options)

    return write


def idx_bytes(shape, body=b""):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body


def masks(**options):
    cells = np.empty((1, 3), dtype=object)
    cells[0, :] = list(BYTES)
    return lambda path: savemat(path, {"volLabel": cells}, appendmat=False, **options)


def intervals(path):
    path.write_text(
        "TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [3:12]; % a comment\n"
        "TestVideoFile{end+1}.gt_frame = [1:4, 6, 8:20];\nTestVideoFile{3}.gt_frame = [];\n"
    )


def model(path):
    X = np.random.default_rng(0).random((24, 16, 16))
    sizes = {
        "features": "pixels",
        "inpainter__width": 2,
        "detector__width": 2,
        "inpainter__depth": 1,
    }
    AVIDDetector(**nested(dict(max_epochs=1, random_state=0, **sizes))).fit(X).save(path)


FILES = {
    "video lossless.mkv": video("ffv1", "gray"),
    "video lossless.avi": video("ffv1", "gray"),
    "video h264.mp4": video("libx264", "yuv420p"),
    "video h264.ts": video("libx264", "yuv420p"),
    "video motion.avi": video("mjpeg", "yuvj420p"),
    "video mpeg4.avi": video("mpeg4", "yuv420p"),
    "video mpeg2.mpg": video("mpeg2video", "yuv420p"),
    "video vp9.webm": video("libvpx-vp9", "yuv420p", {"title": "gate"}),
    "video png.mov": video("png", "gray"),
    "video flash.flv": video("flv", "yuv420p"),
    "video turns.gif": video("gif", "gray"),
    "picture plain.bmp": picture(),
    "picture plain.jpg": picture(color=True),
    "picture plain.png": picture(color=True),
    "picture deep.png": picture(deep=True),
    "picture pages.tif": picture(pages=3),
    "picture packed.tif": picture(compression="tiff_lzw"),
    "picture jpeg.tif": picture(color=True, compression="jpeg"),
    "idx plain": lambda path: path.write_bytes(idx_bytes(BYTES.shape, BYTES.tobytes())),
    "idx packed.gz": lambda path: path.write_bytes(
        gzip.compress(idx_bytes(BYTES.shape, BYTES.tobytes()), mtime=0)
    ),
    "mat plain.mat": masks(),
    "mat packed.mat": masks(do_compression=True),
    "npy masks.npy": lambda path: np.save(path, BYTES),
    "array other.npy": lambda path: np.save(path, np.asfortranarray(BYTES.astype(">f4"))),
    "intervals clips.m": intervals,
    "model saved.skavid": model,
}


@pytest.fixture(scope="module")
def reader():
    process = Reader()
    yield process
    process.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name, write in FILES.items():
        write(folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=max(1, MUTATIONS // len(FILES)))
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_name(reader, whole, tmp_path, name, data):
    content = (whole / name).read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        content = data.draw(damages(content, head=200))
    kind, _, short = name.partition(" ")
    path = tmp_path / short
    path.write_bytes(content)
    outcome, found = reader.read(kind, path)
    if kind == "model" and outcome == "read":
        assert found == reader.read(kind, whole / name)[1]


def test_the_files_above_are_read_where_nothing_is_damaged(reader, whole):
    found = {name: reader.read(name.split()[0], whole / name) for name in FILES}
    assert {outcome for outcome, _ in found.values()} == {"read"}


# --- malice --------------------------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side, *chunks):
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = (
        chunk(b"IHDR", head),
        *chunks,
        chunk(b"IDAT", zlib.compress(bytes(10**6))),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tif(side):
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: side}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def npy(header, body=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + body


def shape(*sides, dtype="|u1"):
    return npy(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {sides}}}", bytes(96))


def zeros_packed(head, n_bytes, wbits):
    packer = zlib.compressobj(9, wbits=wbits)
    head = packer.compress(head)
    blocks = [packer.compress(bytes(2**22)) for _ in range(n_bytes // 2**22)]
    return b"".join([head, *blocks, packer.flush()])


def matlab(kind, content):
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    return head + struct.pack("<2I", kind, len(content)) + content


def matrix(kind, rows, columns, name=b""):
    flags_and_shape = (6, 8, kind, 0, 5, 8, rows, columns)
    return struct.pack("<10I", *flags_and_shape, 1, len(name)) + name  # of 0 or 8 bytes


def mask_packed(rows, columns):
    mask = matrix(9, rows, columns) + struct.pack("<2I", 2, rows * columns)
    cell = matrix(1, 1, 1, b"volLabel") + struct.pack("<2I", 14, len(mask) + rows * columns)
    tag = struct.pack("<2I", 14, len(cell + mask) + rows * columns)
    return matlab(15, zeros_packed(tag + cell + mask, rows * columns, 15))


def safetensors(n_bytes):
    text = b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (n_bytes // 4, n_bytes)
    return len(text).to_bytes(8, "little") + text


def broken(reason):
    return "{path} is broken: {path.name} cannot be read, " + reason + ". Get a new copy."


BOMB = broken(
    "it claims more than 178956970 pixels, which Pillow takes for an attack "
    "(PIL.Image.MAX_IMAGE_PIXELS)"
)
NO_ARRAY = "{path} is not a valid .npy file; get a new copy."
NO_VIDEO = "{path} is no video that FFmpeg can read; give a video, or a folder of images."

MALICE = {
    "picture giant.png": (png(60_000), BOMB),
    "picture giant.tif": (tif(2**31), BOMB),
    "picture text.png": (
        png(8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))),
        broken("it is damaged (ValueError)"),
    ),
    "picture program.png": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        broken("cannot identify image file '{path}'"),
    ),
    "idx bomb.gz": (
        zeros_packed(idx_bytes([2**29]), 2**29, 31),
        "{path} claims to unpack {size} bytes to 536870912, which is implausible for images; "
        "unpack it with gunzip if you trust it.",
    ),
    "idx claim.gz": (
        gzip.compress(idx_bytes([2**31 - 8]), mtime=0),
        "{path} claims to unpack {size} bytes to 2147483640, which is implausible for images; "
        "unpack it with gunzip if you trust it.",
    ),
    "idx claim": (
        idx_bytes([2**31 - 8]),
        "{path} should hold 2147483640 bytes, but holds 0; get a new copy.",
    ),
    "mat bomb.mat": (
        mask_packed(2**14, 2**15),
        "{path} unpacks to more than 536870912 bytes, which is implausible for masks of a "
        "clip; get a new copy.",
    ),
    "array terabytes.npy": (shape(10**6, 1000, 1000), NO_ARRAY),
    "array overflow.npy": (shape(2**63 - 1, 2**63 - 1, 3), NO_ARRAY),
    "array negative.npy": (shape(-2, -4, 3), NO_ARRAY),
    "array brackets.npy": (npy("(" * 3000), NO_ARRAY),
    "array minus.npy": (npy("-" * 9000 + "1"), NO_ARRAY),
    "array code.npy": (npy("__import__('os').system('true')"), NO_ARRAY),
    "array pickled.npy": (
        shape(3, 4, 1, dtype="|O"),
        "{path} contains Python objects; save an array of numbers.",
    ),
    "array zipped.npy": (b"PK\x03\x04" + bytes(60), NO_ARRAY),
    "npy terabytes.npy": (
        shape(10**6, 1000, 1000), "{path} is no array of masks; get a new copy.",
    ),
    "model terabytes.skavid": (
        safetensors(2**40),
        "{path} cannot be loaded: it was not written by AVIDDetector.save.",
    ),
    "video playlist.mp4": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        NO_VIDEO,
    ),
    "video cut.gif": (
        b"GIF89a",
        "{path} is broken: cut.gif cannot be read, cannot identify image file '{path}'. Get a new "
        "copy.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALICE)
def test_a_malicious_file_is_refused_in_one_sentence(reader, tmp_path, name):
    content, told = MALICE[name]
    kind, _, short = name.partition(" ")
    path = tmp_path / short
    path.write_bytes(content)
    outcome, found = reader.read(kind, path)
    assert outcome == "refused"
    assert found.split(": ", 1)[1] == told.format(path=path, size=len(content))


def test_more_masks_than_a_file_can_hold_are_refused_before_memory_is_asked_for(
    tmp_path, monkeypatch
):
    path = tmp_path / "claim.mat"
    path.write_bytes(matlab(14, matrix(1, 1, 2**30, b"volLabel")))
    monkeypatch.setattr(
        "skavid.datasets.clips.loadmat", lambda *_, **__: pytest.fail("it was asked for")
    )
    message = f"{path} is no file of masks (volLabel); get a new copy."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        list(mat_masks(path))


def test_a_zip_in_place_of_an_array_is_no_array(reader, tmp_path):
    np.savez(tmp_path / "all.npz", BYTES)
    path = (tmp_path / "all.npz").rename(tmp_path / "all.npy")
    assert reader.read("array", path)[1] == f"ValueError: {NO_ARRAY.format(path=path)}"


def test_a_video_of_giant_frames_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    video("libx264", "yuv420p")(path)
    monkeypatch.setattr("skavid.video.decoding.MOST_PIXELS", 1000)
    message = (
        f"{path} claims frames of 48 x 32 pixels, but at most 1,000 are allowed; make it smaller "
        "first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_frames(path)


def test_a_video_whose_frames_grow_beyond_its_header_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "film.avi"
    video("mjpeg", "yuvj420p")(path)
    monkeypatch.setitem(FFMPEG, "options", {"max_pixels": "99"})
    with pytest.raises(OSError, match=re.escape(f"{path} is broken: ")):
        load_frames(path)


def test_titles_in_any_encoding_do_not_matter(tmp_path):
    path = tmp_path / "film.mkv"
    video("ffv1", "gray", {"title": "Strasse"})(path)
    path.write_bytes(path.read_bytes().replace(b"Strasse", "Straße!".encode("latin-1")))
    np.testing.assert_array_equal(load_frames(path).frames, FRAMES)
