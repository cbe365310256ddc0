"""Query parameters: read into a declared struct, or a 4xx that says which is wrong and how."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
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
            raise _refusal(f"Expected one value, got {len(given)} - at `{name}`")
        texts.update((name, text) for text in given)
    try:
        read = msgspec.convert(texts, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(str(error).replace("`$.", "`")) from error
    for name, text in texts.items():
        value = getattr(read, name)
        if isinstance(value, int) and str(value) != text:  # msgspec takes 1e3 for a whole number
            raise _refusal(f"Expected `int` in plain digits - at `{name}`")
    return read


def read_parameter(name: str, text: str | msgspec.UnsetType, read: Callable[[str], T]) -> T | None:
    """Read a parameter that is more than its declaration can say; None if it is not given.

    Args:
        name: the parameter's.
        text: what was given.
        read: reads it, and raises ValueError, which says what is wrong, for what it can't.

    Raises:
        ApiError: 400 for what can't be read.
    """
    if isinstance(text, msgspec.UnsetType):
        return None
    try:
        return read(text)
    except ValueError as error:
        raise _refusal(f"{error} - at `{name}`") from error


def _refusal(message: str) -> ApiError:
    return ApiError(400, "invalid_query", message)
