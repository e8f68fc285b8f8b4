"""What a bundle's configuration may name without being trusted, see `differseg_med.bundles.lint`."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from functools import cache

_OURS = re.compile(r"differseg_med\.bundle\.[A-Za-z][A-Za-z0-9_]*")
"""Factories of this package: the module has nothing but them."""

TORCH_NAMES = re.compile(r"torch\.(device|nn\.[A-Z]\w*|optim\.[A-Z]\w*|optim\.lr_scheduler\.[A-Z]\w*)")
"""Classes of torch; not ``torch.load``, ``torch.hub``, ``torch.jit`` and whatever else opens files."""

MONAI = re.compile(
    r"monai\.(transforms|losses|inferers|metrics|engines|handlers|optimizers|data|networks\.(nets|layers|blocks))"
    r"(\.[a-z_0-9]+)*"
)
"""Modules in which a class of MONAI has to be defined; not ``monai.apps``, ``monai.fl``, ``monai.auto3dseg`` ..."""

IGNITE = re.compile(r"ignite\.metrics\.[A-Z]\w*")

REFUSED = re.compile(
    r"(Rand)?(Lambda|TorchVision|TorchIO|CuCIM)[dD]?(ict)?|\w*(Workflow|Parser|Expression|Component|Locator|Algo\w*)"
    r"|MLFlow\w*|ClearML\w*|TorchVisionFCModel|\w*Callable\w*|GDS\w*|LMDB\w*|SmartCache\w*"
    r"|PersistentDataset|CacheNTransDataset|CSV\w+|IterableDataset|Reader|\w+Reader|\w+Writer|DataStats[dD]?(ict)?"
    r"|Camera\w*|Video\w*|Trt\w*|PerceptualLoss|TextEncoding|TransChex|MultiModal|CellSam\w*|FID|InceptionScore"
)
"""Classes that call what a string names, open files or cameras of their own choice, or reach a network."""

NAMING = re.compile(r"(Load|Save)Image\w*|ImageDataset|PatchInferer|\w*WSI\w*|WriteFileMapping\w*")
"""Classes whose arguments name others: not to be called later, with arguments that no list has seen."""

BY_NAME = {
    "reader": ("ITKReader", "NibabelReader", "NumpyReader", "PILReader", "PydicomReader", "NrrdReader"),
    "writer": ("ITKWriter", "NibabelWriter", "PILWriter"),
    "merger_cls": ("AvgMerger", "ZarrAvgMerger"),
    "_mode_": ("default", "callable"),
}
"""Arguments whose text MONAI looks up and calls: only these."""

PRIVATE_NAMES = ("_target_", "_disabled_", "_requires_", "_desc_", "_mode_", "_meta_")
"""Names of MONAI's own in configurations; ``_debug_`` would stop in a debugger."""

MODULES = ("glob", "ignite", "math", "monai", "numpy", "os", "torch")
"""Modules that may be imported: what of them may be used is in `FUNCTIONS` and `VALUES`."""

FUNCTIONS = frozenset(
    {
        "abs",
        "bool",
        "dict",
        "float",
        "int",
        "len",
        "list",
        "max",
        "min",
        "range",
        "round",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
        "zip",
        "glob.glob",
        "os.path.basename",
        "os.path.exists",
        "os.path.join",
        "torch.cuda.device_count",
        "torch.cuda.is_available",
        "torch.device",
        "torch.ones",
        "torch.tensor",
        "torch.zeros",
        "monai.data.load_decathlon_datalist",
        "monai.handlers.from_engine",
        "monai.utils.set_determinism",
    }
)
"""What expressions may call."""

VALUES = re.compile(
    r"(torch|np|numpy)\.(float|double|half|bool|u?int|long|short)(8|16|32|64)?|torch\.bfloat16|(np|numpy|math)\.(pi|inf|nan)"
    r"|monai\.utils\.\w+Mode\.[A-Z_]+|monai\.data\.(utils\.)?(no_collation|list_data_collate|pad_list_data_collate)"
)
"""Names that expressions may use without a call."""

METHODS = frozenset(
    {
        "cpu",
        "cuda",
        "eval",
        "finish",
        "float",
        "half",
        "items",
        "keys",
        "parameters",
        "run",
        "to",
        "train",
        "values",
    }
)
"""Methods of what a reference stands for."""

SETTINGS = frozenset(
    f"setattr(torch.backends.cudnn, '{name}', {value})"
    for name in ("benchmark", "deterministic")
    for value in (True, False)
)
"""Whole expressions."""


def target_allowed(name: str) -> bool:
    """Whether a component of this name may be built: names are looked up as MONAI does, which may find others."""
    if any(pattern.fullmatch(name) for pattern in (TORCH_NAMES, IGNITE)):
        return not REFUSED.fullmatch(name.rpartition(".")[2])
    if _OURS.fullmatch(name):
        return name.rpartition(".")[2] in _factories()
    module, _, short = name.rpartition(".")
    if not re.fullmatch(r"[A-Z]\w*", short) or REFUSED.fullmatch(short) or not (not module or MONAI.fullmatch(module)):
        return False
    found = [module] if module else _places().get(short, [])
    return bool(found) and all(_defined(place, short) for place in found)


def meant(name: str) -> str:
    """The question whether a name of this package that is not there is a misspelt one; empty for others."""
    module, _, short = name.rpartition(".")
    near = difflib.get_close_matches(short, _factories(), 1) if _OURS.fullmatch(name) else []
    return f". Did you mean {module}.{near[0]}?" if near else ""


def _defined(module: str, name: str) -> bool:
    """Whether a name of a module is a class or function of MONAI's own, from a module of the list."""
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return callable(found) and bool(MONAI.fullmatch(str(getattr(found, "__module__", ""))))


@cache
def _factories() -> frozenset[str]:
    from differseg_med.bundles import factories

    return frozenset(factories.__all__)


@cache
def _places() -> Mapping[str, list[str]]:
    """The modules in which MONAI finds a short name."""
    from monai.bundle import ComponentLocator

    locator = ComponentLocator()
    locator.get_component_module_name("")
    return locator._components_table or {}
