"""The sample of a bundle to ship; of volumes it is tested where a bundle is released."""

from __future__ import annotations

import numpy as np
from PIL import Image

from differseg_med.bundles.sample import check_sample, write_sample
from differseg_med.cohort.table import read_cohort


def test_a_sample_of_photographs_has_their_pixels_only(tmp_path):
    rng = np.random.default_rng(3)
    depth, mask = rng.integers(0, 60000, (8, 9)).astype(np.uint16), rng.integers(0, 2, (8, 9)).astype(np.uint8)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    photo = Image.fromarray(rng.integers(0, 255, (8, 9, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[315] = "DOE JOHN"
    photo.save(tmp_path / "rgb.jpg", exif=exif, quality=95)
    (tmp_path / "cohort.csv").write_text("case_id,rgb,depth,label\nroad,rgb.jpg,depth.png,mask.png\n")
    cohort = read_cohort(tmp_path / "cohort.csv", ("rgb", "depth"))
    check_sample(cohort)
    write_sample(cohort, tmp_path / "sample", [])
    place = tmp_path / "sample" / "road"
    np.testing.assert_array_equal(
        np.asarray(Image.open(place / "rgb.png")), np.asarray(Image.open(tmp_path / "rgb.jpg"))
    )
    np.testing.assert_array_equal(np.asarray(Image.open(place / "depth.png")), depth)
    np.testing.assert_array_equal(np.asarray(Image.open(place / "mask.png")), mask * 255)
    assert b"DOE" not in (place / "rgb.png").read_bytes()
