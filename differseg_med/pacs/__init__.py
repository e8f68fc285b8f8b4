"""Series from a PACS and results back to it, by DICOMweb (PS3.18: QIDO-RS, WADO-RS, STOW-RS) with dicomweb-client.

A server is not believed: identities, counts, sizes and times of its answers are checked, and what it says reaches no
path and no terminal unchecked. Neither passwords, addresses with paths, nor anything of a patient goes into messages.
"""

from differseg_med.pacs.connection import PASSWORD, USER, connect
from differseg_med.pacs.series import RemoteSeries, list_series, pull
from differseg_med.pacs.store import push

__all__ = ["PASSWORD", "USER", "RemoteSeries", "connect", "list_series", "pull", "push"]
