"""Reading DICOM: an index of a tree, series as volumes in space, RTSTRUCT and SEG as masks."""
