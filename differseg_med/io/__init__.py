"""File formats, each read and written in one place: volumes, labels, headers, images and DICOM."""
