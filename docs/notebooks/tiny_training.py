# %% [markdown]
# # Train on a tiny cohort
#
# Three sample photographs, two steps of training: not to learn anything, but to see what goes in and what comes out.
# With a cohort of
# your own, leave the settings out.

# %%
import tempfile
from pathlib import Path

import pandas as pd

import differseg_med as ds

bundle = Path("bundles/pothole_rgbd_segmentation")
out = Path(tempfile.mkdtemp())

# %% [markdown]
# A cohort is a table. This one comes with the bundle; its paths are relative to it.

# %%
table = pd.read_csv(bundle / "sample" / "cohort.csv")
print(table)

# %% [markdown]
# `split` decides who is trained on. Two images for training, one for validation:

# %%
table["split"] = ["train", "train", "validation"]
for column in ("rgb", "depth", "label"):
    table[column] = [str((bundle / "sample" / cell).resolve()) for cell in table[column]]
table.to_csv(out / "cohort.csv", index=False)

# %%
small = {"max_epochs": 1, "iterations": 2, "batch_size": 2, "val_interval": 1, "spatial_size": [64, 64]}
result = ds.train(bundle, out / "cohort.csv", out / "run", settings=small)
print(sorted(path.name for path in result.out_dir.iterdir()))

# %% [markdown]
# `log.csv` has a line per epoch. `best.pt` are the weights of the best validation, `last.pt` is what a second call of
# `ds.train`
# resumes from.

# %%
print(pd.read_csv(out / "run" / "log.csv").T)
