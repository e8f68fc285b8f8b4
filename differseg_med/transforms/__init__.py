"""MONAI dictionary transforms from a cohort row to the network's input, and back."""
