"""How many normal images a threshold needs
========================================

A threshold is asked to flag at most so many normal images. With few held-out images nobody can
promise that: a new image is as likely as any of n to be the oddest of all n + 1.
"""

import numpy as np
from matplotlib import pyplot

from skavid.core.anomaly_maps import evidence, score
from skavid.core.calibration import calibrate, conformal_count

# %%
# `calibrate` flags k of n images, where k / (n + 1) is the bound of split conformal prediction.
# Here is what it comes to for new images. Each "image" is one pixel whose residual and logit are
# drawn at random, so that 4000 new ones tell the true rate of false alarms well enough.

rng = np.random.default_rng(0)


def draw(n):
    """Draw the maps of n normal images of one pixel."""
    residual = rng.lognormal(-3, 0.5, (n, 1, 1)).astype(np.float32)
    logits = rng.normal(3, 1, (n, 1, 1)).astype(np.float32)
    return residual, logits


def false_alarms(n, target_fpr):
    """Calibrate on n normal images; return the share of new ones that is flagged."""
    alpha, zeta = calibrate(*draw(n), target_fpr=target_fpr, fusion="mean")
    new = evidence(*draw(4000), alpha=alpha, zeta=zeta, fusion="mean")
    return float((score(new) <= 0).mean())


sizes = np.array([10, 20, 50, 99, 200, 500])
target = 0.05
rates = np.array([[false_alarms(n, target) for _ in range(300)] for n in sizes])
bounds = np.array([conformal_count(n, target) / (n + 1) for n in sizes])

# %%
# The mean over trials keeps to the bound. A single calibration scatters about it, the less the
# more images there are.

figure, ax = pyplot.subplots(figsize=(7, 4), layout="constrained")
low, high = np.quantile(rates, [0.1, 0.9], axis=1)
ax.fill_between(sizes, low, high, alpha=0.3, label="eight of ten calibrations")
ax.plot(sizes, rates.mean(1), "o-", label="their mean")
ax.step(sizes, bounds, "k--", where="post", label="the bound, k / (n + 1)")
ax.axhline(target, color="gray", linewidth=1)
ax.text(sizes[-1], target, "asked for ", ha="right", va="bottom", color="gray")
ax.set(xscale="log", xlabel="held-out normal images", ylabel="false alarms among new images")
ax.set_xticks(sizes, [str(n) for n in sizes])
ax.set_ylim(0)
ax.legend()
pyplot.show()

# %%

print("   n  bound   mean")
for n, bound, mean in zip(sizes, bounds, rates.mean(1), strict=True):
    print(f"{n:4}  {bound:.3f}  {mean:.3f}")

# %%
# Frames of one clip are not independent: there whole clips are counted, not frames.
# :doc:`/user_guide/thresholds` has the rule, :doc:`/how_to/tune_thresholds` the recipe.
