"""What the module does, without windows: tested with slicer-core, used by DifferSeg.py."""
