"""Imports transformers without PyTorch's compiler and without its list of models, for commands that need neither."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_MASKS = "torch._dynamo._trace_wrapped_higher_order_op"
_MODELS = "transformers.models"


def import_transformers() -> None:
    """
    Imports transformers' models before anything else does. It imports PyTorch's compiler, with a system of computer
    algebra, to mark two functions for it and to name one class: 2.9 s of the 8.4 s that a command took to start. Names
    stand in for these while it does so. Whoever compiles later imports the compiler as ever; the two functions are then
    compiled through and not left as they are.

    It also lists what all its models have, by reading thousands of files, and does so again for the package of models,
    whose modules import each other without that list: 0.4 s of CPU. The package stays an empty one. For a command's own
    process only.
    """
    if _COMPILER in sys.modules:
        return
    if _MODELS not in sys.modules and (found := find_spec("transformers")) is not None:
        models = ModuleType(_MODELS)
        models.__path__ = [f"{place}/models" for place in found.submodule_search_locations or ()]
        sys.modules[_MODELS] = models
    compiler, masks = ModuleType(_COMPILER), ModuleType(_MASKS)
    compiler.__path__ = []
    vars(compiler).update(allow_in_graph=_unmarked, disable=_unmarked)
    vars(masks).update(TransformGetItemToIndex=_real_masks)
    sys.modules.update({_COMPILER: compiler, _MASKS: masks})
    try:
        # A version that wants more of the compiler gets it, and the command starts as slowly as without this.
        with suppress(ImportError, AttributeError):
            import transformers.masking_utils
            import transformers.modeling_utils  # noqa: F401
    finally:
        for name in (_MASKS, _COMPILER):
            del sys.modules[name]


def _unmarked(function: Any = None, *_: object, **__: object) -> Any:
    """A decorator, with or without arguments, that leaves its function alone."""
    return function if isinstance(function, Callable) else _unmarked  # type: ignore[arg-type]


def _real_masks() -> Any:
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()
