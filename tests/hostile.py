"""Read hostile files in a process of their own, which may die or hang in our place."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import resource
import select
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

from hypothesis import strategies as st

SECONDS = 20  # for a tiny file, on a busy machine
BYTES = 2**31  # of addresses, beyond what the process needs without any file
FORBIDDEN = ("pickle.find_class", "subprocess.", "os.system", "os.exec", "os.posix_spawn",
             "os.fork", "socket.connect", "os.remove", "ctypes.dlopen")  # fmt: skip


class Reader:
    """A process that reads one file after the other."""

    def __init__(self):
        self.begin()

    def begin(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert self.process.stdout.readline() == b"ready\n", self.process.stderr.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait(SECONDS)
        self.process.stdout.close()
        self.process.stderr.close()

    def read(self, kind, path):
        """Return "read" or "refused" with what was found, or fail as the process did."""
        self.process.stdin.write(f"{kind} {path}\n".encode())
        self.process.stdin.flush()
        answers, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if answers else b""
        if not line:
            self.process.kill()
            _, said = self.process.communicate()
            self.begin()
            ended = "crashed" if answers else f"hung for {SECONDS} s"
            raise AssertionError(f"reading {path} {ended}: {said[-2000:].decode()}")
        outcome, found = json.loads(line)
        assert outcome in ("read", "refused"), found
        return outcome, found


@st.composite
def damages(draw, data, head=64):
    """Change bytes anywhere, most often where the file says what it holds."""
    places = st.integers(0, 15) | st.integers(0, min(head, len(data))) | st.integers(0, len(data))
    place = draw(places | st.integers(max(0, len(data) - head), len(data)))
    kind = draw(st.sampled_from(["set", "insert", "delete", "cut", "repeat", "swap"]))
    some = draw(
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b"0", b"9", b'"', b"{", b" ", b"\xff" * 4, b"\x7f\xff", b"\0" * 4])
    )
    n = draw(st.integers(1, 64))
    match kind:
        case "set":
            return data[:place] + some + data[place + len(some) :]
        case "insert":
            return data[:place] + some + data[place:]
        case "delete":
            return data[:place] + data[place + n :]
        case "cut":
            return data[:place]
        case "repeat":
            return data[:place] + data[place : place + n] * 2 + data[place + n :]
    other = data[place : place + n]
    return data[:place] + data[place + n : place + 2 * n] + other + data[place + 2 * n :]


# --- in the process ------------------------------------------------------------------------------


def read_video(path):
    from skavid.video import count_frames, read_pairs

    assert count_frames(path) is None or count_frames(path) > 0
    shapes = set()
    for frame, whole in read_pairs(path, size=(6, 8)):
        assert frame.image.shape == (6, 8)
        assert whole.shape[2:] == (3,)
        shapes.add(whole.shape)
    assert len(shapes) == 1
    return sorted(shapes)


def read_picture(path):
    from skavid.video import read_pairs

    return [whole.shape for frame, whole in read_pairs(path, size=(6, 8))]


def read_idx(path):
    from skavid.datasets import load_idx

    return load_idx(path).shape


def read_mat(path):
    from skavid.datasets.clips import mat_masks

    masks = list(mat_masks(path))
    assert all(mask.dtype == bool for mask in masks)
    return len(masks)


def read_npy(path):
    from skavid.datasets.clips import npy_masks

    masks = list(npy_masks(path))
    assert all(mask.dtype == bool and mask.ndim == 2 for mask in masks)
    return len(masks)


def read_array(path):
    from skavid.datasets.sources import open_array

    array = open_array(path)
    assert array.ndim in (3, 4)
    return hashlib.sha256(array[:1].tobytes()).hexdigest()


def read_intervals(path):
    import numpy as np

    from skavid.datasets.clips import read_intervals

    labels = read_intervals(path, np.repeat([1, 2, 3], 20))
    assert set(labels.tolist()) <= {1, -1}
    return labels.tolist()


def read_model(path):
    import numpy as np

    from skavid import AVIDDetector

    X = np.linspace(0, 1, 256).reshape(1, 16, 16)
    return AVIDDetector.load(path).score_samples(X).tolist()


READERS = {
    "video": read_video, "picture": read_picture, "idx": read_idx, "mat": read_mat,
    "npy": read_npy, "array": read_array, "intervals": read_intervals, "model": read_model,
}  # fmt: skip


def outcome(kind, path):
    try:
        found = READERS[kind](path)
    except (ValueError, OSError) as error:
        said = str(error)
        # av's own errors are of these types, too, but name no file.
        whole = str(path) in said and said.endswith(".") and "\n" not in said
        return ("refused" if whole else "badly told"), f"{type(error).__name__}: {said}"
    except BaseException as error:
        return "raised", "".join(traceback.format_exception(error))
    return "read", found


def serve():
    faulthandler.enable()
    warnings.simplefilter("ignore")
    import av
    import PIL.Image

    import skavid.datasets.sources  # with SciPy's readers
    import skavid.estimator  # noqa: F401

    PIL.Image.init()
    av.logging.set_level(None)
    done = []

    def listen(event, arguments):
        if event.startswith(FORBIDDEN):
            done.append(f"{event} {arguments!r}"[:200])

    status = Path("/proc/self/status").read_text()
    size = int(status.split("VmSize:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    sys.addaudithook(listen)
    print("ready", flush=True)
    for line in sys.stdin:
        done.clear()
        kind, path = line.rstrip("\n").split(" ", 1)
        told = outcome(kind, Path(path))
        if done:
            told = "ran something", done
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    serve()
