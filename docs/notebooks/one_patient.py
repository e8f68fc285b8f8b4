# %% [markdown]
# # One patient in Python
#
# Segment a sample image with the package, look at the arrays, and leave a modality out. The images are small
# photographs of
# a road with their disparity, so that every cell takes a second; a patient's MR, CT and PET go the same way.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import differseg_med as ds

bundle = Path("bundles/pothole_rgbd_segmentation")
sample = bundle / "sample"

# %% [markdown]
# `ds.segment` takes a file per modality; their names are those of the bundle's `modalities`.

# %%
found = ds.segment(bundle, rgb=sample / "rgb/d1_07.jpg", depth=sample / "depth/d1_07.png")
print(found.mask.shape, found.mask.dtype, int(found.mask.sum()), "pixels")
print(found.findings)

# %% [markdown]
# The same without depth: leave it out. Nothing has to stand in its place.

# %%
alone = ds.segment(bundle, rgb=sample / "rgb/d1_07.jpg")
common = (found.mask & alone.mask).sum()
print("Dice of both masks:", round(2 * common / (found.mask.sum() + alone.mask.sum()), 3))

# %% [markdown]
# Look at it. Arrays are `(i, j, k)`; an image is a volume of one slice.

# %%
figure, axes = plt.subplots(1, 2)
for axis, result, title in zip(axes, (found, alone), ("RGB and depth", "RGB alone")):
    axis.imshow(result.mask[:, :, 0].T, cmap="gray")
    axis.set_title(title)
    axis.axis("off")

# %% [markdown]
# What cannot be done raises `ds.CaseError`, whose text says what to do.

# %%
try:
    ds.segment(bundle, rgb=sample / "rgb/missing.jpg")
except ds.CaseError as error:
    print(error)
