"""The shipped rules on names and tags that scanners of many makers and countries give to MR series."""

from __future__ import annotations

import pytest

from differseg_med.cohort.scan.rules import load_rules

IGNORED, NONE = "", None
SE, GR = {"ScanningSequence": "SE"}, {"ScanningSequence": "GR"}
AGENT = {"ContrastBolusAgent": "Gadovist"}


def b(value: float, *image_type: str) -> dict[str, object]:
    return {"DiffusionBValue": value, "ImageType": image_type or ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE")}


NAMES = [
    # T1 without contrast
    ("t1_mprage_sag_p2_iso", {}, "t1"),
    ("t1_mprage_tra_p2_iso_MPR_cor", {}, "t1"),
    ("sT1W_3D_TFE", {}, "t1"),
    ("WIP sT1W_3D_TFE SENSE", {"DiffusionBValue": 0.0}, "t1"),
    ("ADNI_Sag3D MPRAGE", {"DiffusionBValue": 0.0}, "t1"),
    ("T1W_TSE", {"DiffusionBValue": 0.0}, "t1"),
    ("AX T1", {}, "t1"),
    ("AxT1 SE", {}, "t1"),
    ("SagT1", {}, "t1"),
    ("Sag T1 FLAIR", {"InversionTime": 860.0}, "t1"),
    ("AX T1 FLAIR PROPELLER", {}, "t1"),
    ("T1 C-SPINE SAG", {}, "t1"),
    ("SAG T1 post op PRE KM", {}, "t1"),
    ("3D Ax T1 MP-RAGE_R22", {}, "t1"),
    ("BRAVO", {}, "t1"),
    ("Ax 3D FSPGR", {}, "t1"),
    ("t1_vibe_dixon_tra_bh_W", {}, "t1"),
    ("t1_vibe_dixon_tra_bh_F", {}, NONE),
    ("WATER: Ax LAVA-Flex pre", {}, "t1"),
    ("e-THRIVE_BH", {}, "t1"),
    ("T1 sans injection", {}, "t1"),
    ("T1 TSE ohne KM", {}, "t1"),
    ("T1 senza mdc", {}, "t1"),
    ("T1 SIN CONTRASTE", {}, "t1"),
    ("T1 precontrast", AGENT, "t1"),
    ("T1 nativ", AGENT, "t1"),
    ("AX T1 NON CONTRAST", {}, "t1"),
    ("t1_se_tra", {"ContrastBolusAgent": "NONE"}, "t1"),
    ("t1_fl2d_tra", GR, "t1"),
    ("COR T1 FS", {}, "t1"),
    ("横断T1", {}, "t1"),
    ("IBSI_1_STS_025_MR_T1_image", {}, "t1"),
    ("anat-T1w_acq-tfl", {}, "t1"),
    # T1 with contrast
    ("t1_mprage_sag_p2_iso_KM", {}, "t1c"),
    ("t1_tse_tra nach KM", {}, "t1c"),
    ("KM t1_se_tra", {}, "t1c"),
    ("AX T1 +C", {}, "t1c"),
    ("Ax T1 FS+C", {}, "t1c"),
    ("AX T1 C+", {}, "t1c"),
    ("SAG T1 FLAIR + GD", {}, "t1c"),
    ("T1 POST", {}, "t1c"),
    ("T1_POST_CONTRAST", {}, "t1c"),
    ("POST GAD AX T1", {}, "t1c"),
    ("3D T1 GADO", {}, "t1c"),
    ("T1 EG 3D apres injection", {}, "t1c"),
    ("T1 con contraste", {}, "t1c"),
    ("T1 SE mdc", {}, "t1c"),
    ("sT1W_3D_TFE +Gd", {"DiffusionBValue": 0.0}, "t1c"),
    ("T1W_CE", {}, "t1c"),
    ("Ax BRAVO +C", {}, "t1c"),
    ("t1_se_tra", AGENT, "t1c"),
    ("MPRAGE", AGENT, "t1c"),
    ("e-THRIVE_BH", AGENT, "t1c"),
    # T1 of no use
    ("T1 VIBE dynamic", {}, NONE),
    ("t1_fl3d_tra_dynaVIEWS_spair", AGENT, NONE),
    ("t1_vibe_sub", AGENT, IGNORED),
    ("SUB_KM t1", {}, IGNORED),
    ("t1_fl3d_tra", {"ImageType": ("DERIVED", "PRIMARY", "SUBTRACTION")}, IGNORED),
    ("T1 MAP MOLLI", {}, NONE),
    ("t1_mp2rage_sag_p3_iso_INV1", {}, NONE),
    ("t1_mp2rage_sag_p3_iso_T1_Images", {}, NONE),
    ("t1_mp2rage_sag_p3_iso_UNI_Images", {}, "t1"),
    ("t1_vibe_tra", {"ImageType": ("ORIGINAL", "PRIMARY", "P", "NORM")}, IGNORED),
    ("T1 MIP tra", AGENT, IGNORED),
    ("REST1 w SMS PF7-8", {"EchoTime": 30.0, "RepetitionTime": 500.0}, NONE),
    # T2
    ("t2_tse_tra", {}, "t2"),
    ("t2_spc_sag_p2_iso", {}, "t2"),
    ("sT2W_TSE", {"DiffusionBValue": 0.0}, "t2"),
    ("T2W_TSE_AX SENSE", {"DiffusionBValue": 0.0}, "t2"),
    ("Ax T2 FSE FS", {}, "t2"),
    ("AXT2 PROPELLER", {}, "t2"),
    ("t2_haste_cor_bh", {}, "t2"),
    ("t2_blade_tra_fs", {}, "t2"),
    ("T2 sag T1-L5", {}, "t2"),
    ("T2 TRANSVERSAL", {}, "t2"),
    ("T2 AXIAL FRFSE", {}, "t2"),
    ("pd+t2_tse_tra", {"EchoTime": 90.0}, "t2"),
    ("pd+t2_tse_tra", {"EchoTime": 12.0}, NONE),
    ("COR", {**SE, "EchoTime": 100.0, "RepetitionTime": 4000.0}, "t2"),
    ("AX", {**SE, "EchoTime": 10.0, "RepetitionTime": 550.0}, "t1"),
    # not T2
    ("T2* GRE", GR, NONE),
    ("t2_fl2d_tra_hemo", GR, NONE),
    ("T2W_FFE", GR, NONE),
    ("t2_me2d_tra MEDIC", GR, NONE),
    ("T2 MAP", {}, NONE),
    ("t2_swi3d_tra_p2", GR, NONE),
    ("SWI_Images", GR, NONE),
    ("mIP_Images(SW)", GR, IGNORED),
    ("Pha_Images", {**GR, "ImageType": ("ORIGINAL", "PRIMARY", "P", "NORM")}, IGNORED),
    ("Ax SWAN", GR, NONE),
    ("STIR COR", {**SE, "InversionTime": 150.0, "EchoTime": 60.0}, NONE),
    ("t2_tirm_cor_fs", {**SE, "InversionTime": 220.0, "EchoTime": 70.0}, NONE),
    # FLAIR
    ("AX T2 FLAIR FS +C", {}, "flair"),
    ("t2_tirm_tra_dark-fluid", {}, "flair"),
    ("t2_spc_da-fl_sag_p2_iso", {}, "flair"),
    ("3D_Brain_VIEW_FLAIR_SHC", {"DiffusionBValue": 0.0}, "flair"),
    ("Sag CUBE FLAIR", {}, "flair"),
    ("FLAIR longTR", {"ContrastBolusAgent": "Dotarem"}, "flair"),
    ("AX", {**SE, "InversionTime": 2200.0, "EchoTime": 120.0}, "flair"),
    # diffusion
    ("ep2d_diff_3scan_trace_p2", b(1000, "ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW", "NORM"), "dwi"),
    ("ep2d_diff_3scan_trace_p2", b(0, "ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"), "dwi_low"),
    ("ep2d_diff_3scan_trace_p2_ADC", b(0, "DERIVED", "PRIMARY", "DIFFUSION", "ADC"), "adc"),
    ("AX DWI b1000 ADC", {}, "adc"),
    ("AX DWI b1000", {}, "dwi"),
    ("AX DWI b=0", {}, "dwi_low"),
    ("DWI_b50", {}, "dwi_low"),
    ("Ax DWI 1000b", b(1000, "ORIGINAL", "PRIMARY", "OTHER"), "dwi"),
    ("DWI_SSh", b(1000, "ORIGINAL", "PRIMARY", "M_SE", "M", "SE"), "dwi"),
    ("dADC", b(0, "DERIVED", "PRIMARY", "ADC", "SE", "ADC"), "adc"),
    ("ADC (10^-6 mm²/s)", {}, "adc"),
    ("eADC", {}, NONE),
    ("Exponential ADC", {}, NONE),
    ("Apparent Diffusion Coefficient (mm2/s)", {}, "adc"),
    ("mapa ADC", {}, "adc"),
    ("DIFUSION AXIAL", b(800, "ORIGINAL", "PRIMARY"), "dwi"),  # codespell:ignore difusion
    ("resolve_3scan_trace_tra_TRACEW", b(1000, "DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"), "dwi"),
    ("DTI_30dir_FA", b(1000, "DERIVED", "PRIMARY", "DIFFUSION", "FA"), IGNORED),
    ("DTI_30dir_ColFA", b(1000, "DERIVED", "PRIMARY", "DIFFUSION", "FA"), IGNORED),
    ("ep2d_diff_mddw_20_TENSOR", {}, NONE),
    ("DWI_dir80_PA_TENSOR_B0", b(0, "DERIVED", "PRIMARY", "DIFFUSION", "TENSOR_B0"), NONE),
    ("EPI_asc", b(0, "ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"), NONE),
    ("fcMRI", b(0, "ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"), NONE),
    # angiography, perfusion, function, maps, planning
    ("TOF_3D_multi-slab", GR, NONE),
    ("TOF_3D_multi-slab_MIP_COR", GR, IGNORED),
    ("fl3d_ce_cor", {**GR, **AGENT}, NONE),
    ("TWIST_dynamic_MRA", {**GR, **AGENT}, NONE),
    ("ep2d_perf_p2", {**AGENT, "ScanningSequence": "EP"}, NONE),
    ("T1 DCE perfusion", AGENT, NONE),
    ("relCBV", {}, NONE),
    ("func-bold_task-fa_run-1", {}, NONE),
    ("gre_field_mapping", GR, NONE),
    ("B0 NS", GR, NONE),
    ("ASSET calibration", GR, IGNORED),
    ("CoilSurvey", GR, IGNORED),
    ("AAHead_Scout_MPR_sag", GR, IGNORED),
    ("localizer", GR, IGNORED),
    ("3-Plane Localizer SSFSE", SE, IGNORED),
    ("3-pl T2* FGRE S", GR, NONE),
    ("Loc", GR, IGNORED),
    ("Repérage 3 plans", GR, IGNORED),
    ("Übersicht", GR, IGNORED),
    ("LOCALIZADOR T2", {}, IGNORED),
    ("localisateur", {}, IGNORED),
    ("scout", GR, IGNORED),
    ("Planning RT localisation T1", {}, "t1"),
]


@pytest.mark.parametrize(("name", "tags", "expected"), NAMES, ids=[name for name, _, _ in NAMES])
@pytest.mark.parametrize("keyword", ["SeriesDescription", "ProtocolName"])
def test_series_go_where_a_radiologist_would_put_them(name, tags, expected, keyword):
    rule = load_rules("mr").match_series({"Modality": "MR", keyword: name, **tags})
    assert (rule if rule is None else rule.name) == expected
