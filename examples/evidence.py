"""Eq. 4 as one number
===================

A pixel is irregular where I changed it (``R >= alpha``) and D doubts it (``O <= zeta``): Eq. 4, a
yes or a no. The evidence says how far a pixel is from either side: in nats, 0 on the border.
"""

import numpy as np
from matplotlib import pyplot
from scipy.special import expit, logit

from skavid.core.anomaly_maps import evidence
from skavid.core.calibration import move_thresholds

# %%
# Every pair of a residual and a regularity that a pixel may have, and two thresholds:

residual = np.geomspace(0.005, 2, 200)
logits = np.linspace(-6, 6, 200)
R, z = np.meshgrid(residual, logits)
alpha, zeta = 0.1, 0.3

# %%
# ``fusion="min"`` is Eq. 4: both margins must reach 0, and the lesser one is the evidence. Its
# border has a corner. ``fusion="mean"``, the default, lets one margin make up for the other.
#
# A threshold t on the evidence moves alpha and zeta together, along their ray: the dots are t of
# -2 to 2. So one curve over `score_samples` is a curve over both thresholds, as in Fig. 6.

figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
ray = np.array([move_thresholds(alpha, zeta, t) for t in range(-2, 3)])
for ax, fusion in zip(axes, ("min", "mean"), strict=True):
    e = evidence(R[None], z[None], alpha=alpha, zeta=zeta, fusion=fusion)[0]
    shown = ax.pcolormesh(R, expit(z), e, cmap="RdBu_r", vmin=-4, vmax=4, rasterized=True)
    lines = ax.contour(
        R, expit(z), e, [-2, -1, 0, 1, 2], colors="black", linewidths=[1, 1, 3, 1, 1]
    )
    ax.clabel(lines)
    ax.plot(*ray.T, "o:", color="black", markersize=4)
    ax.set(xscale="log", yscale="logit", xlabel="residual R", title=f'fusion="{fusion}"')
axes[0].set_ylabel("regularity O")
figure.colorbar(shown, ax=axes, label="evidence: irregular above 0")
pyplot.show()

# %%
# The numbers behind the dots:

for t, (moved_alpha, moved_zeta) in zip(range(-2, 3), ray, strict=True):
    print(f"t = {t:2}: alpha = {moved_alpha:.3f}, zeta = {moved_zeta:.3f}")
print(f"on each: alpha times the odds of zeta is {alpha * np.exp(logit(zeta)):.4f}")

# %%
# :doc:`/user_guide/segmentation` goes on from here.
