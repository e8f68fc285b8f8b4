"""The network and its parts; torch only."""

from differseg_med.networks.blocks import ReceptiveFieldBlock, SegmentationHead
from differseg_med.networks.decoder import FrequencyGuidedDecoder
from differseg_med.networks.differseg import DifferSeg
from differseg_med.networks.encoders import Adapter, build_encoder
from differseg_med.networks.fusion import DifferentialPerceptionFusion

__all__ = [
    "Adapter",
    "DifferSeg",
    "DifferentialPerceptionFusion",
    "FrequencyGuidedDecoder",
    "ReceptiveFieldBlock",
    "SegmentationHead",
    "build_encoder",
]
