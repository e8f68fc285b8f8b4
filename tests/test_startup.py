"""The command line imports MONAI and timm the quick way, and both work as they would."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from differseg_med import startup

CODE = """
import gc
import sys
from differseg_med.startup import Later, quick_start
quick_start()
import monai, timm
from differseg_med.networks import DifferSeg
network = DifferSeg((1, 1))
early = ("torch._dynamo", "torch.distributed.optim", "sklearn", "scipy.stats", "matplotlib.pyplot", "sympy")
early += ("cv2", "pandas", "scipy.optimize", "skimage.morphology")
print("too early", [name for name in early if name in sys.modules])
from torch._library.utils import get_source
print("collections", gc.isenabled(), gc.get_freeze_count() > 100_000, gc.get_stats()[2]["collections"] < 3)
print(get_source(1).endswith("<string>:14"), monai.utils.jupyter_utils.plt.Figure.__name__)
import torch
from ignite.engine import Engine
from ignite.handlers import Checkpoint
from monai.data.ultrasound_confidence_map import hilbert
from monai.networks.blocks.backbone_fpn_utils import torchvision_models
from torch.distributed.optim import ZeroRedundancyOptimizer
from torchvision.ops.roi_align import is_compile_supported
print("finders", [finder for finder in sys.meta_path if "differseg" in type(finder).__module__])
print("stand-ins", [name for name, held in sys.modules.items() if "differseg" in type(held).__module__])
print(isinstance(hilbert, Later), len(hilbert([1.0, 0.0, 0.0, 0.0])), torchvision_models.resnet18.__name__)
print(is_compile_supported("cpu") in (True, False), torch._dynamo.__name__, ZeroRedundancyOptimizer.__name__)
from monai.transforms.utils import morphology
print(isinstance(morphology, Later), morphology.disk(1).sum(), torch.library.inspect.signature.__name__)
handler = Checkpoint({"model": torch.nn.Linear(1, 1)}, "unused")
handler._setup_checkpoint()
print(monai.networks.nets.UNet.__name__, monai.engines.SupervisedEvaluator.__mro__[2].__name__)
"""

SAID = """too early []
collections True True True
True Figure
finders []
stand-ins []
True 4 resnet18
True torch._dynamo ZeroRedundancyOptimizer
True 5 signature
UNet Workflow
"""


def test_what_waits_is_there_when_it_is_used() -> None:
    """In a process of its own, as here MONAI has long been imported."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout == SAID, done.stderr[-2000:]


def test_what_somebody_switched_off_stays_off() -> None:
    """And nothing is kept for ever then."""
    before, enabled = gc.get_freeze_count(), gc.isenabled()
    gc.disable()
    with startup.without_collections():
        assert not gc.isenabled()
    assert (gc.isenabled(), gc.get_freeze_count()) == (False, before)
    if enabled:
        gc.enable()


def test_libraries_that_were_not_tried_are_imported_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stand-in may stand for is known of some versions; another one must not stop the command."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "monai", raising=False)
    before = list(sys.meta_path)
    with monkeypatch.context() as patch:
        patch.setitem(startup.TRIED, "torch", ("1.0",))
        startup.quick_start()
        assert sys.meta_path == before
        patch.setitem(startup.TRIED, "no-such-library", ("1.0",))
        startup.quick_start()
        assert sys.meta_path == before
    startup.quick_start()
    assert len(sys.meta_path) == len(before) + 1
