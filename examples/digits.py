"""Among scikit-learn's outlier detectors
======================================

Three tasks on the digits that come with scikit-learn, 8 x 8 pixels each: AVIDDetector beside
IsolationForest, LocalOutlierFactor, OneClassSVM and the distance to the nearest training image,
all with their default parameters. Nothing is downloaded. It takes one to two minutes::

    python examples/digits.py [--digits 0 1 2] [--output digits.png]
"""

# sphinx_gallery_thumbnail_path = "images/digits.png"
import argparse
import time
import warnings

import numpy as np
from matplotlib import pyplot
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from skavid import AVIDDetector
from skavid.exceptions import CalibrationWarning


class NearestImage(NearestNeighbors):
    """Score images by their distance to the nearest training image."""

    def score_samples(self, X):
        """Score images: the higher, the more normal."""
        return -self.kneighbors(X, n_neighbors=1)[0].ravel()


MODELS = {
    "AVIDDetector": AVIDDetector(image_shape=(8, 8), value_range=(0, 16), random_state=0),
    "IsolationForest": IsolationForest(random_state=0),
    "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
    "OneClassSVM": OneClassSVM(),
    "nearest image": NearestImage(),
}
MOST = 200  # images of a kind, for time


def erase(rows, rng):
    """Replace 3 x 3 pixels of each image by their mean: a part of a stroke is lost."""
    images = rows.reshape(-1, 8, 8).copy()
    for image, (top, left) in zip(images, rng.randint(1, 5, (len(images), 2)), strict=True):
        patch = image[top : top + 3, left : left + 3]
        patch[:] = patch.mean()
    return images.reshape(-1, 64)


def make_tasks(digits):
    """Yield training images, normal test images, and irregular ones by the name of the task."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.RandomState(0)
    order = rng.permutation(len(X))
    X, y = X[order], y[order]
    for digit in digits:
        this, others = X[y == digit], X[y != digit]
        train, normal = np.array_split(this, 2)
        irregular = {
            "one digit is normal:\nanother digit": others[:MOST],
            "one digit is normal:\na part is erased": erase(normal, rng),
        }
        yield train, normal, irregular
        train, normal = others[:MOST], others[MOST : 2 * MOST]
        yield train, normal, {"nine digits are normal:\nthe tenth": this}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", help="where to save the picture; without it, it is shown")
    options = parser.parse_args(arguments)
    # With so few images no false alarm rate of 1 % can be promised; the AUC does not need one.
    warnings.simplefilter("ignore", CalibrationWarning)

    found = {}
    seconds = {name: [] for name in MODELS}
    for train, normal, tasks in make_tasks(options.digits):
        for name, model in MODELS.items():
            start = time.perf_counter()
            model.fit(train)
            seconds[name].append(time.perf_counter() - start)
            of_normal = model.score_samples(normal)
            for task, irregular in tasks.items():
                scores = np.concatenate([of_normal, model.score_samples(irregular)])
                y = np.repeat([1, -1], [len(normal), len(irregular)])
                found.setdefault(task, {}).setdefault(name, []).append(roc_auc_score(y, scores))

    for task, of_models in found.items():
        print(task.replace("\n", " "))
        for name, values in of_models.items():
            each = " ".join(f"{100 * value:5.1f}" for value in values)
            print(f"  {name:20} {100 * np.mean(values):5.1f} %   ({each})")
    print("seconds to fit, mean")
    for name, values in seconds.items():
        print(f"  {name:20} {np.mean(values):6.2f}")
    draw(found, seconds)
    if options.output:
        pyplot.gcf().savefig(options.output, dpi=100)
    else:
        pyplot.show()


def draw(found, seconds):
    """Draw one row per task: the mean AUC of each method as a bar, each digit as a dot."""
    _, axes = pyplot.subplots(1, 4, figsize=(13, 3.2), layout="constrained", sharey=True)
    names = list(MODELS)[::-1]
    colours = ["tab:grey"] * (len(names) - 1) + ["tab:blue"]
    for ax, (task, of_models) in zip(axes, found.items(), strict=False):
        ax.barh(names, [100 * np.mean(of_models[name]) for name in names], color=colours)
        for name in names:
            values = 100 * np.array(of_models[name])
            ax.plot(values, [name] * len(values), "o", color="black", markersize=4)
        ax.axvline(50, color="black", linewidth=1, linestyle=":")
        ax.set(title=task, xlabel="AUC in %", xlim=(0, 101))
    axes[3].barh(names, [np.mean(seconds[name]) for name in names], color=colours)
    axes[3].set(title="time to fit", xlabel="seconds", xscale="log")


if __name__ == "__main__":
    main()
