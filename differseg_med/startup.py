"""A quicker start: MONAI and timm imported without the libraries that they offer and this package does not use.

MONAI imports all of its modules, each twice, and with them whatever optional library it finds; timm imports torchvision
whole. SciPy's signal processing and statistics, scikit-learn, TensorBoard, ``torch._dynamo`` and SymPy together take
more than half of the time of a small prediction. Here they are imported when they are first used. For the command
line only, whose process is ours: a program that imports this package gets MONAI as it is.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pkgutil import walk_packages
from re import match
from types import FrameType, ModuleType
from typing import Any

LATER = (
    *("cv2", "matplotlib", "pandas", "scipy.optimize", "scipy.signal", "scipy.sparse", "skimage", "sklearn"),
    *("tensorboard", "torch.utils.tensorboard", "torchvision"),
)
"""Optional libraries of MONAI that are imported at their first use."""

OPTIMIZERS = "torch.distributed.optim"
"""Ignite takes a class from it, to ask of optimizers whether several processes share their state: two CPU seconds."""

COMPILER = ("torch._dynamo", "torch._dynamo.utils")
"""torchvision, which timm needs, takes a function from it that says whether one can compile: two CPU seconds."""

PLOTS = "matplotlib.pyplot"
"""MONAI's figures of a training use it; ours do not, and leave its windows and widgets out."""

SOURCES = "torch._library.utils"
"""torch notes which line registers an operation. To tell it, Python looks through all modules, 141 times in a start."""

API = "differseg_med.api"
"""What most commands import first, and with it all that they need."""

LIBRARY = "torch.library"
"""It asks which module registers what, 125 times in a start; to tell it, Python looks through all modules and files."""

DRAWING = "matplotlib.artist"
"""It lists the properties of each of its classes for their docstrings."""

CHANGED = ("monai", "monai.utils.module", SOURCES, LIBRARY, DRAWING, API)

REPLACED = (*COMPILER, OPTIMIZERS, PLOTS)

TRIED = {
    "monai": ("1.6",),
    "pytorch-ignite": ("0.5",),
    "timm": ("1.0",),
    "torch": ("2.14", "2.15"),
    "torchvision": ("0.29", "0.30"),
}
"""Versions of which it is known what may wait; with any other one everything is imported as usual."""


class Later:
    """A library, or something of it, that is imported when it is used."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _get(self) -> Any:
        _remove_stand_ins()
        module = import_module(self._module)
        return getattr(module, self._name) if self._name else module

    def __getattr__(self, name: str) -> Any:
        """Of the library."""
        return getattr(self._get(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what was imported."""
        return self._get()(*args, **kwargs)


def quick_start() -> None:
    """Import MONAI and timm the quick way when MONAI is first imported.

    Nothing if it was imported before, or one of the libraries has a version that was not `TRIED`.
    """
    waiting = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if "monai" not in sys.modules and not waiting and all(_tried(name) for name in TRIED):
        sys.meta_path.insert(0, _Finder())


def _tried(library: str) -> bool:
    """Whether the installed version is one of `TRIED`."""
    try:
        return ".".join(version(library).split(".")[:2]) in TRIED[library]
    except PackageNotFoundError:
        return False


def is_installed(module: str) -> bool:
    """Whether the package of a module is there; nothing is imported."""
    return PathFinder.find_spec(module.partition(".")[0]) is not None


class _Finder(MetaPathFinder):
    """Stands before Python's own until MONAI and timm, and what imports them, are imported."""

    def __init__(self) -> None:
        self._open = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around an import; at the end of the outermost one, which has imported MONAI, the work is done."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open and "monai" in sys.modules:
                sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Of the modules that are changed; None for others."""
        spec = PathFinder.find_spec(name, path, target) if name in CHANGED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """Loads a module that is changed."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As usual."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As usual, with the changes."""
        if module.__name__ == API:
            with self.finder.working(), without_collections():
                self.loader.exec_module(module)
            return
        if module.__name__ == "monai":
            with self.finder.working(), without_collections(), _stand_ins():
                self.loader.exec_module(module)
                import_module("timm")
            return
        self.loader.exec_module(module)
        held = vars(module)
        if module.__name__ == SOURCES:
            held["get_source"] = _source
        elif module.__name__ == LIBRARY:
            held["inspect"] = _Inspect()
        elif module.__name__ == DRAWING:
            held["kwdoc"] = lambda artist: ""
        else:
            held["optional_import"] = _optional_import(held["optional_import"])
            held["load_submodules"] = _load_submodules(held["OptionalImportError"])


class _Inspect:
    """Python's module of that name, which finds the module of a frame at once."""

    def getmodule(self, frame: FrameType) -> ModuleType | None:
        """The module whose code a frame runs."""
        return sys.modules.get(frame.f_globals.get("__name__", ""))

    def __getattr__(self, name: str) -> Any:
        """All else."""
        return getattr(inspect, name)


@contextmanager
def without_collections() -> Iterator[None]:
    """Within the block nothing is looked through for garbage: what is imported stays, and is not looked at again.

    Python would do it seven times in a start, which is a fifth of its time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Within the block others stand in the place of what is in `REPLACED`."""
    sys.modules.update({name: _StandIn(name) for name in REPLACED if name not in sys.modules})
    try:
        yield
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """In the place of a module that is imported later."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """Something of it; what only says "do not compile this" needs no compiler."""
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "disable":
            return _as_it_is
        return _LaterClass(name, (), {}) if self.__name__ == OPTIMIZERS else Later(self.__name__, name)


class _LaterClass(type):
    """Classes of `OPTIMIZERS` in questions of ``isinstance``: only who imported it can have an object of them."""

    def __instancecheck__(cls, instance: object) -> bool:
        """Ask the class itself."""
        held = sys.modules.get(OPTIMIZERS)
        return held is not None and isinstance(instance, getattr(held, cls.__name__))


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    return function or _as_it_is


def _source(stacklevel: int) -> str:
    """File and line of the caller's caller, as torch writes them."""
    frame = sys._getframe(stacklevel)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _remove_stand_ins() -> None:
    for name in REPLACED:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _optional_import(usual: Callable[..., tuple[Any, bool]]) -> Callable[..., tuple[Any, bool]]:
    """MONAI's function of that name, which waits where it can."""

    def optional_import(module: str, version: str = "", *args: Any, **kwargs: Any) -> tuple[Any, bool]:
        waits = any(module == name or module.startswith(f"{name}.") for name in LATER)
        if waits and module not in sys.modules and "as_type" not in kwargs and is_installed(module):
            return Later(module, kwargs.get("name") or (args[1] if len(args) > 1 else "")), True
        return usual(module, version, *args, **kwargs)

    return optional_import


def _load_submodules(missing: type[Exception]) -> Callable[..., tuple[list[ModuleType], list[str]]]:
    """MONAI's function of that name, which runs the code of each module once."""

    def load_submodules(
        base: ModuleType, load_all: bool = True, exclude_pattern: str = "(.*[tT]est.*)|(_.*)"
    ) -> tuple[list[ModuleType], list[str]]:
        loaded: list[ModuleType] = []
        failed: list[str] = []
        for _, name, package in walk_packages(base.__path__, f"{base.__name__}.", failed.append):
            if (package or load_all) and name not in sys.modules and match(exclude_pattern, name) is None:
                try:
                    loaded.append(import_module(name))
                except missing:
                    failed.append(name)  # an optional library is not there
        return loaded, failed

    return load_submodules
