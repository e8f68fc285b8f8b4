"""What of a cohort will not work, before it is run."""
