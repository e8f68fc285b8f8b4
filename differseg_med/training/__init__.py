"""Training a network on a cohort."""
