"""All keys of an item, the dictionary that a case is on its way from files to a mask.

Beside these it has one key per modality, by the modality's name.
"""

from __future__ import annotations

LABEL = "label"
"""The label, ``(1, H, W, D)``."""

REFERENCE_IMAGES = "reference_images"
"""The images that a label may have been drawn on, where they differ from the item's own."""

REFERENCE = "reference"
"""The modality whose grid the mask will have."""

NOTES = "notes"
"""Remarks for the report."""

IMAGE = "image"
"""The network's input after stacking, ``(C, H, W, D)``."""

PRESENT = "modalities"
"""Names of the modalities that a case had; one of nothing but zeros is absent to the network, so it does not count."""

CHANNELS = "channels"
"""The modality of each channel of the image, also of those that the case does not have."""

AFFINE = "affine"
"""4 x 4, RAS, mm, beside tensors that carry none."""

PRED = "pred"
"""The network's output, at the end the mask."""

PROBABILITY = "probability"
"""The probability before the threshold, on the grid of the mask."""
