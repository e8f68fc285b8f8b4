"""The page on which a person accepts or rejects the masks of a run: ``differseg-med view``."""
