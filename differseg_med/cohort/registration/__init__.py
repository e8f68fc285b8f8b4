"""Rigid registration of the images of one patient."""
