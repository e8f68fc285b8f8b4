"""Names that bundle configurations use: ``differseg_med.bundle.<factory>``, whatever file the factory stands in."""

from differseg_med.bundles.factories import *  # noqa: F403
from differseg_med.bundles.factories import __all__ as __all__
from differseg_med.bundles.failures import tell_in_one_line as _tell_in_one_line

_tell_in_one_line()  # no configuration may name it
