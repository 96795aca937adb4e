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
    Imports transformers' models before any other module does, with two short cuts. Only for a command's own process.

    transformers imports PyTorch's compiler, with a system of computer algebra, to mark two functions for it and to name
    one class: 2.9 s of the 8.4 s that a command took to start. Here other objects stand in for these names during the
    import. A later compilation imports the compiler as usual; it then compiles the two functions instead of leaving
    them out.

    transformers also lists the contents of all its models by reading thousands of files, and does so a second time for
    the package of models, whose modules need no list to import each other: 0.4 s of CPU. Here that package stays empty.
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
        # A version that needs more of the compiler imports it, and the command starts as slowly as before.
        with suppress(ImportError, AttributeError):
            import transformers.masking_utils
            import transformers.modeling_utils  # noqa: F401
    finally:
        for name in (_MASKS, _COMPILER):
            del sys.modules[name]


def _unmarked(function: Any = None, *_: object, **__: object) -> Any:
    """A decorator, with or without arguments, that returns its function unchanged."""
    return function if isinstance(function, Callable) else _unmarked  # type: ignore[arg-type]


def _real_masks() -> Any:
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()
