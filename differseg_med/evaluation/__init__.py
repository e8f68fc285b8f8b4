"""Measures of segmentation quality in mm and ml, with one policy for empty masks, and the reports made of them."""
