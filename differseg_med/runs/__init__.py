"""One run, one folder: what made the results, who writes there now, and what must not be written."""
