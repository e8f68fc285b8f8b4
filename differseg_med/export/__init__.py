"""Masks to disk, each written under a temporary name, checked, then renamed."""
