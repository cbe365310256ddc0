"""Query parameters: read into a declared struct; a 4xx says which one is wrong, and why."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import msgspec.inspect
from aiohttp import web

from api.http.responses import ApiError

T = TypeVar("T")
Q = TypeVar("Q", bound=msgspec.Struct)


def read_query(request: web.Request, wanted: type[Q]) -> Q:
    """Read and validate the query of a request; parameters that are not declared are ignored.

    Args:
        request: the request.
        wanted: a struct with a field for each parameter.

    Raises:
        ApiError: 400 for a parameter that is missing, given twice, or not as declared.
    """
    texts: dict[str, str] = {}
    for name in wanted.__struct_fields__:
        given = request.query.getall(name, ())
        if len(given) > 1:
            raise _rejection(f"Expected one value, got {len(given)} - at `{name}`")
        texts.update((name, text) for text in given)
    try:
        read = msgspec.convert(texts, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise _rejection(_explained(error, wanted)) from error
    for name, text in texts.items():
        value = getattr(read, name)
        if isinstance(value, int) and str(value) != text:  # msgspec accepts 1e3 as a whole number
            raise _rejection(f"Expected `int` in plain digits - at `{name}`")
    return read


def read_parameter(name: str, text: str | msgspec.UnsetType, read: Callable[[str], T]) -> T | None:
    """Read a parameter whose type no declaration can express; None if it is not given.

    Args:
        name: the name of the parameter.
        text: the value.
        read: decodes the value; raises ValueError with the reason.

    Raises:
        ApiError: 400 if the value cannot be decoded.
    """
    if isinstance(text, msgspec.UnsetType):
        return None
    try:
        return read(text)
    except ValueError as error:
        raise _rejection(f"{error} - at `{name}`") from error


def _explained(error: msgspec.ValidationError, wanted: type[msgspec.Struct]) -> str:
    """Return what is wrong, with the values of a parameter that has only some."""
    text = str(error).replace("`$.", "`")
    if not text.startswith("Invalid enum value"):
        return text
    values: list[str] = []
    for field in msgspec.structs.fields(wanted):
        if text.endswith(f"`{field.name}`"):
            info = msgspec.inspect.type_info(field.type)
            if isinstance(info, msgspec.inspect.Metadata):
                info = info.type
            if isinstance(info, msgspec.inspect.LiteralType):
                values = sorted(map(str, info.values))
    return f"{text}; its values are {', '.join(values)}" if values else text


def _rejection(message: str) -> ApiError:
    return ApiError(400, "invalid_query", message)
