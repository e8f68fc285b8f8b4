"""Cohorts: who has which images, where, and in which split."""
