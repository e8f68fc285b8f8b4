# %% [markdown]
# # Read the results as a statistician
#
# What a table of scores can say, and what it cannot. The scores are those of 40 sarcoma patients, each segmented by a
# network that
# never saw the patient: `docs/evidence_cases.csv`, which comes with the repository ([how it was
# made](../evidence.md)).

# %%
import numpy as np
import pandas as pd
from scipy import stats

cases = pd.read_csv("docs/evidence_cases.csv")
print(cases.head())

# %% [markdown]
# One row per patient and set of modalities. Look at the whole distribution first; four patients are far below the
# others.

# %%
table = cases.pivot(index="case", columns="subset", values="dice")
print(table.describe(percentiles=[0.25, 0.5, 0.75]).round(3))
print(table["all"].nsmallest(4))

# %% [markdown]
# ## How sure is the mean?
#
# A bootstrap over patients: draw 40 patients with replacement, take the mean, do it again. The middle 95 % of these
# means is the
# interval. It says how the mean would change with other patients of the same kind, and nothing about another
# hospital.

# %%
random = np.random.default_rng(0)
draws = random.choice(table["all"].to_numpy(), (2000, len(table)))
low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
print(f"mean {table['all'].mean():.3f} (95 % {low:.3f} to {high:.3f}), median {table['all'].median():.3f}")

# %% [markdown]
# ## What does a missing PET cost?
#
# The same patients with and without, so look at differences within patients. Two separate intervals would hide most
# of what is known.

# %%
difference = (table["without pet"] - table["all"]).to_numpy()
draws = random.choice(difference, (2000, len(difference)))
low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
p = stats.wilcoxon(difference).pvalue
print(f"mean difference {difference.mean():+.3f} (95 % {low:+.3f} to {high:+.3f})")
print(f"p {p:.1g}, worse in {(difference < 0).sum()} of 40")

# %% [markdown]
# ## How many patients would it take?
#
# With n patients the smallest p that Wilcoxon's test can give is 2 / 2^n: with five it is 0.0625, whatever the data
# say.

# %%
for n in (5, 6, 7, 10):
    print(n, stats.wilcoxon(np.arange(1, n + 1)).pvalue)

# %% [markdown]
# ## What this cannot say
#
# * The recipe was chosen on fold 0. Without these eight patients the mean is lower:

# %%
print(cases[cases.fold != 0].groupby("subset").dice.mean().round(3))

# %% [markdown]
# * All patients are of one collection, and one person's contours are the reference. Agreement between experts was not
#   measured.
# * Dice depends on size: a shift of one voxel costs a small tumour more. Look at HD95 in mm beside it.

# %%
both = cases[cases.subset == "all"]
print("Spearman of volume and Dice:", round(stats.spearmanr(both.reference_ml, both.dice).statistic, 2))
