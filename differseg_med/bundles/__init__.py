"""MONAI bundles: factories that configurations name, templates, and how a bundle is run."""
