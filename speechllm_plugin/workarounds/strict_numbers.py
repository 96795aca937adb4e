"""Refuses numbers in a configuration that fairseq2 would change."""

from __future__ import annotations

from fairseq2.utils.structured import StandardValueConverter, StructureError


def refuse_numbers_of_another_kind() -> None:
    """Makes wrong numbers errors. fairseq2 0.8 would cut 3.7 to 3 where an integer is expected, take `true` for the
    number 1, and end in a stack trace at an infinite number of steps."""
    StandardValueConverter._structure_primitive = _structure  # type: ignore[method-assign]


def _structure(
    self: StandardValueConverter, origin_type: object, type_args: tuple[object, ...], obj: object
) -> object:
    if origin_type is int:
        expected, fits = "an integer", isinstance(obj, (int, str)) or (isinstance(obj, float) and obj.is_integer())
    else:
        expected, fits = "a number", isinstance(obj, (int, float, str))
    if not fits or isinstance(obj, bool):
        raise StructureError(f"found {obj!r}, expected {expected}")
    assert isinstance(obj, (int, float, str))
    try:
        return int(obj) if origin_type is int else float(obj)
    except ValueError as error:
        raise StructureError(f"found {obj!r}, expected {expected}") from error
