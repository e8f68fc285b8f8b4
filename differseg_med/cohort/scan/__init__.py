"""From a folder of images to a cohort table."""
