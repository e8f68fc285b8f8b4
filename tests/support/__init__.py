"""What test files share: synthetic images, DICOM series, cohorts and runs."""
