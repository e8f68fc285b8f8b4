"""Cohorts: tables, folds, and what is found, checked, registered, imported and exported."""
