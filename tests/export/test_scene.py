"""A scene for 3D Slicer: its files lie in one space and have names of their own; `test_slicer.py` opens it."""

from __future__ import annotations

import zipfile
from xml.etree import ElementTree

import numpy as np
import SimpleITK as sitk
import slicerio
from support.synthetic import affine_of, tumour_images, write_nifti

from differseg_med.export.scene import save_scene, write_mrb
from differseg_med.export.segment import SegmentInfo
from differseg_med.export.segmented import Segmented
from differseg_med.geometry import Grid, affine_from_itk


def test_files_are_where_the_images_are(tmp_path):
    images = tumour_images((20, -10, 5))
    volumes = {name: (images[name].data, images[name].affine) for name in ("ct", "t1", "pet")}
    label = images["label"]
    save_scene(volumes, "t1", label.data, label.affine, tmp_path, SegmentInfo("GTV"))
    assert {p.name for p in tmp_path.iterdir()} == {"ct.nrrd", "t1.nrrd", "pet.nrrd", "mask.seg.nrrd", "scene.mrml"}
    for name in ("ct", "t1", "pet"):
        image = sitk.ReadImage(str(tmp_path / f"{name}.nrrd"))
        affine = affine_from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        np.testing.assert_allclose(affine, images[name].affine, atol=1e-6)
        np.testing.assert_allclose(sitk.GetArrayFromImage(image).T, images[name].data, rtol=1e-6)
    read = slicerio.read_segmentation(str(tmp_path / "mask.seg.nrrd"))
    np.testing.assert_array_equal(read["voxels"], images["label"].data)


def test_names_of_modalities_become_names_of_files_of_their_own(tmp_path):
    """Two names that differ in special characters only, or in capitals, are two files; the mask's name is kept free."""
    names = ("t1 Gd/ß", "t1_Gd__", "T1_GD__", "mask.seg")
    volumes = {name: (np.full((3, 3, 3), value), affine_of()) for value, name in enumerate(names)}
    scene = save_scene(volumes, "t1 Gd/ß", np.zeros((3, 3, 3)), affine_of(), tmp_path, SegmentInfo("GTV"))
    root = ElementTree.parse(scene).getroot()
    nodes = [element.attrib["name"] for element in root.iter("Volume")]
    files = [element.attrib["fileName"] for element in root.iter("VolumeArchetypeStorage")]
    assert nodes == list(names)
    assert files == ["t1_Gd__.nrrd", "t1_Gd___2.nrrd", "T1_GD___3.nrrd", "mask_seg.nrrd"]
    for value, file in enumerate(files):
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / file))) == value).all()


def test_a_bundle_is_the_same_bytes_again(tmp_path):
    images = tumour_images((20, -10, 5))
    mask, affine = images["label"].data.astype(np.uint8), images["label"].affine
    cells = {"t1": write_nifti(tmp_path / "t1.nii.gz", images["t1"])}
    segmented = Segmented(mask, Grid(mask.shape, affine), SegmentInfo("GTV"), cells, "t1")
    for name in ("a.mrb", "b.mrb"):
        write_mrb(segmented, tmp_path / name)
    assert (tmp_path / "a.mrb").read_bytes() == (tmp_path / "b.mrb").read_bytes()
    names = zipfile.ZipFile(tmp_path / "a.mrb").namelist()
    assert names == ["scene/Data/mask.seg.nrrd", "scene/scene.mrml", "scene/Data/t1.nrrd"]
