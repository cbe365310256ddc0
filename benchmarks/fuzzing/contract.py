"""Sends valid and invalid requests from the OpenAPI document, and checks each response.

Schemathesis generates them: boundary values of each schema, then random values, then sequences in
which a device is registered, used and removed. It checks every response against the document.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import requests
import schemathesis
from schemathesis import Case, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.openapi.checks import (
    AllowHeaderMismatch,
    RejectedPositiveData,
    UnsupportedMethodResponse,
)

_BEYOND_A_SCHEMA: Final = (
    b"Expected `int`, got `float`",  # to JSON Schema 5.0 is an integer
    b"a batch is of one device",  # two fields that must be equal
    b"100 years at most",  # in a unit of its own
    b"no event after this cursor is kept",  # which events there are
    b"Expected a next_cursor",  # no pattern describes a valid cursor
)
STREAM: Final = "text/event-stream"
"""The content type of responses of which only the beginning is read."""
_STREAM_BYTES: Final = 64
_ALSO_A_DEVICE: Final = "/api/v1/devices/register"
"""The router takes this for the path of a device whose id is no uuid."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it was sent, and its operation in the document."""

    operation: str
    method: str
    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Found:
    """The result of a run: the requests, the statuses and the failures."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    """The failures, one of each kind, each with a command that repeats it."""

    def add(self, other: "Found") -> None:
        """Add the result of another run."""
        self.statuses.update(other.statuses)
        self.failures = other.failures | self.failures


def explore(url: str, key: str, *, seed: int, examples: int) -> tuple[Found, list[Sent]]:
    """Send valid and invalid requests; it blocks.

    Args:
        url: the service's address.
        key: a valid API key; some requests are sent without one, or with a wrong one.
        seed: the same seed makes the same requests, as far as the responses are the same.
        examples: the maximum number of random requests for each operation.

    Returns:
        The result, and the requests that were accepted.
    """
    found, accepted = Found(), list[Sent]()
    for event in from_schema(_schema(url, key, seed, examples)).execute():
        if isinstance(event, events.ScenarioFinished):
            found.statuses.update(_statuses(event.recorder))
            found.failures = dict(_failures(event.recorder)) | found.failures
            accepted += _accepted(event.recorder)
        elif isinstance(event, events.NonFatalError):
            found.failures[f"{event.label}: {event.info.title}"] = event.info.message
        elif isinstance(event, events.FatalError):
            raise event.exception
    return found, accepted


def _schema(url: str, key: str, seed: int, examples: int) -> Any:
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"X-API-Key": key},
            "continue-on-failure": True,
            "output": {"sanitization": {"enabled": False}},
            "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/api/openapi.json", config=config)
    schema.hook("filter_failure")(_is_none_of_ours)
    return schema


@schemathesis.hook("before_call")
def _do_not_wait(_context: Any, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Read only the beginning of a stream, which has no end, and do not wait for events."""
    for query in (case.query, kwargs.get("params")):
        if isinstance(query, dict) and str(query.get("wait_s", "")).isdigit():
            query["wait_s"] = "0"

    def leave(response: requests.Response, **_: Any) -> None:
        if response.headers.get("Content-Type", "").startswith(STREAM):
            response._content = next(response.iter_content(_STREAM_BYTES))  # noqa: SLF001
            response.close()

    kwargs["hooks"] = {"response": leave}


def _is_none_of_ours(_context: Any, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Return whether a failure counts; some rules cannot be expressed in a schema."""
    if isinstance(failure, RejectedPositiveData):
        return not any(reason in response.content for reason in _BEYOND_A_SCHEMA)
    if isinstance(failure, UnsupportedMethodResponse | AllowHeaderMismatch):
        # A request denied for its X-Device-ID is not validated further.
        return case.path != _ALSO_A_DEVICE and b"device_not_found" not in response.content
    return True


def _statuses(recorder: ScenarioRecorder) -> Iterator[int]:
    for interaction in recorder.interactions.values():
        yield 0 if interaction.response is None else interaction.response.status_code


def _failures(recorder: ScenarioRecorder) -> Iterator[tuple[str, str]]:
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                operation = recorder.cases[case_id].value.operation.label
                failure = check.failure_info.failure
                yield (
                    f"{operation}: {failure.title}",
                    f"{failure.message}\n{check.failure_info.code_sample}",
                )


def _accepted(recorder: ScenarioRecorder) -> Iterator[Sent]:
    for case_id, interaction in recorder.interactions.items():
        request, response = interaction.request, interaction.response
        if response is None or response.status_code >= 400:
            continue
        yield Sent(
            recorder.cases[case_id].value.operation.label,
            request.method,
            request.uri,
            {name: values[0] for name, values in request.headers.items()},
            request.body or b"",
        )
