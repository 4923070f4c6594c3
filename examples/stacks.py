"""Three moments in one picture
============================

`TemporalStacker` (Sec. 3.5) puts three moments into the channels of each frame. What stands still
is grey in all of them; what moves leaves a coloured trace, the longer the faster it is.
"""

import numpy as np
from matplotlib import pyplot

from skavid import TemporalStacker
from skavid.datasets import make_moving_shapes

# %%
# A drawn scene of walkers, in which someone runs at times. Its masks are exact.

scene = make_moving_shapes(1, 60, size=(64, 96), irregular="fast", random_state=3)
stacker = TemporalStacker()
stacks = stacker.fit_transform(scene.frames)
print(stacks.shape, stacks.dtype)

# %%
# A frame where all is well, and one with the runner. The stack is drawn as if its channels were
# red (4 frames ago), green (2 frames ago) and blue (now).

times = np.flatnonzero(scene.labels == 1)[-1], scene.masks.sum((1, 2)).argmax()
figure, axes = pyplot.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
for row, time in zip(axes, times, strict=True):
    row[0].imshow(scene.frames[time], cmap="gray", vmin=0, vmax=255)
    row[1].imshow(stacks[time])
    for ax in row:
        if scene.masks[time].any():
            ax.contour(scene.masks[time], [0.5], colors="red", linewidths=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"frame {time}")
axes[0, 0].set_title("the frame")
axes[0, 1].set_title("its stack of three moments")
pyplot.show()

# %%
# The first frames of a clip reach before its beginning, and repeat its first frame:

print("stacks that reach before the clip:", int(stacker.is_padded(scene.frames).sum()))

# %%
# :doc:`/user_guide/video` tells the rest.
