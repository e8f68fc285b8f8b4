"""Jobs: predict a cohort, train a network."""
