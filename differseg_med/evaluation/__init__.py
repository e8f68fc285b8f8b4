"""Masks against labels: scores of a cohort, comparisons of models, baselines."""
