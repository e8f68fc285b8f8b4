"""What a bundle's configuration may name without being trusted, see `differseg_med.bundles.lint`."""

from __future__ import annotations

import re

_OURS = re.compile(r"differseg_med\.bundle\.[A-Za-z][A-Za-z0-9_]*")
"""Factories of this package: the module has nothing but them."""

TORCH = re.compile(r"torch\.(device|nn\.[A-Z]\w*|optim\.[A-Z]\w*|optim\.lr_scheduler\.[A-Z]\w*)")
"""Classes of torch; not ``torch.load``, ``torch.hub``, ``torch.jit`` and whatever else opens files."""

MONAI = re.compile(
    r"(monai\.(transforms|losses|inferers|metrics|engines|handlers|optimizers|data|networks\.(nets|layers|blocks))"
    r"(\.[a-z_0-9]+)*\.)?[A-Z]\w*"
)
"""Classes of MONAI, by full name or by the short one that MONAI finds."""

IGNITE = re.compile(r"ignite\.metrics\.[A-Z]\w*")

REFUSED = re.compile(
    r"(Rand)?(Lambda|TorchVision|TorchIO|CuCIM)[dD]?(ict)?|\w*(Workflow|Parser|Expression|Component|Locator|Algo\w*)"
    r"|MLFlow\w*|ClearML\w*|TorchVisionFCModel|\w*Callable\w*|GDS\w*|LMDB\w*|SmartCache\w*"
    r"|PersistentDataset|CacheNTransDataset|CSV\w+|IterableDataset|Reader|\w+Reader|\w+Writer|DataStats[dD]?(ict)?"
)
"""Classes of MONAI that call what a string names, open files of their own choice, or reach a network."""

BY_NAME = {
    "reader": ("ITKReader", "NibabelReader", "NumpyReader", "PILReader", "PydicomReader", "NrrdReader"),
    "writer": ("ITKWriter", "NibabelWriter", "PILWriter"),
    "_mode_": ("default", "callable"),
}
"""Arguments whose text MONAI looks up and calls: only these."""

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
        "os.path.dirname",
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
    """Whether a component of this name may be built."""
    if any(pattern.fullmatch(name) for pattern in (_OURS, TORCH, IGNITE)):
        return True
    return bool(MONAI.fullmatch(name)) and not REFUSED.fullmatch(name.rpartition(".")[2])
