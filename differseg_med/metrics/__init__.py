"""Measures of segmentation quality: arrays in, numbers in mm and ml out, with one policy for empty masks."""
