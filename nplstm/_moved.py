"""Former names of modules, by which pickles that version 0.1.0 made find their classes."""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MOVED = {
    "nplstm.cells": "nplstm.core",
    "nplstm.cells.spec": "nplstm.core.cell_spec",
    "nplstm.io.door": "nplstm.io",
    "nplstm.layers.structure": "nplstm._moved",
    "nplstm.module": "nplstm.core.module",
    "nplstm.ops": "nplstm.core.ops",
    "nplstm.ops.activations": "nplstm.core.ops.activations",
    "nplstm.packing": "nplstm.batch.packing",
    "nplstm.params": "nplstm.core.params",
    "nplstm.transforms.protocol": "nplstm.core.hidden_transform",
}


class Structure(tuple[Any, ...]):
    """What such a pickle holds of a layer's sizes; ``LSTM`` makes them anew from the layer's options."""

    __slots__ = ()

    def __new__(cls, *members: Any) -> "Structure":
        """Take the members of the former named tuple."""
        return super().__new__(cls, members)


class _Finder:
    """Finds a former name after all others have been asked, and gives it what the present module has."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Finder(), is_package=True) if name in _MOVED else None  # pyright: ignore[reportArgumentType]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Let Python make it."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        present = vars(import_module(_MOVED[module.__name__]))
        vars(module).update({name: value for name, value in present.items() if not name.startswith("__")})


def find_moved_modules() -> None:
    """Let former names be found from now on."""
    sys.meta_path.append(_Finder)  # pyright: ignore[reportArgumentType]
