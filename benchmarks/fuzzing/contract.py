"""Requests made of the service's own OpenAPI document, right and wrong, and each answer checked.

Schemathesis makes them: all corners of each schema, then random values, then chains in which a
device is registered, used and removed. It holds every answer against the document.
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
    b"Expected a next_cursor",  # no pattern tells one from others
)
STREAM: Final = "text/event-stream"
"""The content type of what is read no further than to its beginning."""
_STREAM_BYTES: Final = 64
_ALSO_A_DEVICE: Final = "/api/v1/devices/register"
"""To the router this is the path of a device as well, whose id is no uuid."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it was sent, and where in the document it belongs."""

    operation: str
    method: str
    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Found:
    """What a run sent, what was answered, and what was wrong with it."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    """What failed, each kind once, and how to do it again."""

    def add(self, other: "Found") -> None:
        """Add what another run found."""
        self.statuses.update(other.statuses)
        self.failures = other.failures | self.failures


def explore(url: str, key: str, *, seed: int, examples: int) -> tuple[Found, list[Sent]]:
    """Send requests as the document says, and others; it blocks.

    Args:
        url: where the service answers.
        key: a valid API key; some requests are sent without one, or with a wrong one.
        seed: the same seed makes the same requests, as far as answers are the same.
        examples: the most random requests for each operation.

    Returns:
        What was found, and those requests that were accepted.
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
def _leave_streams(_context: Any, _case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Take the beginning of a stream for an answer: it has no end."""

    def leave(response: requests.Response, **_: Any) -> None:
        if response.headers.get("Content-Type", "").startswith(STREAM):
            response._content = next(response.iter_content(_STREAM_BYTES))  # noqa: SLF001
            response.close()

    kwargs["hooks"] = {"response": leave}


def _is_none_of_ours(_context: Any, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Return whether a failure counts: a schema cannot say all that we mean."""
    if isinstance(failure, RejectedPositiveData):
        return not any(reason in response.content for reason in _BEYOND_A_SCHEMA)
    if isinstance(failure, UnsupportedMethodResponse | AllowHeaderMismatch):
        # What is refused for its X-Device-ID is looked at no further.
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
