"""Names that bundle configurations use: ``differseg_med.bundle.<factory>``, whatever file the factory stands in."""

from differseg_med.bundles.factories import *  # noqa: F403
from differseg_med.bundles.factories import __all__ as __all__
