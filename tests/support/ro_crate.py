"""roc-validator without a network: the library rocrate has the one document that it asks for, the JSON-LD context."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import requests
import rocrate
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
TERMS = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"


def problems(crate: Path) -> list[str]:
    """What breaks a rule of level REQUIRED in a crate, by the profile Provenance Run Crate and those it stands on."""
    settings = ValidationSettings(
        rocrate_uri=crate,
        profile_identifier="provenance-run-crate-0.5",
        requirement_severity=Severity.REQUIRED,
        no_cache=True,
    )
    with _answered():
        result = services.validate(settings)
    assert len(result.executed_checks) > 30
    return [f"{issue.check.identifier}: {issue.message} {issue.violatingEntity}" for issue in result.get_issues()]


@contextmanager
def _answered() -> Iterator[None]:
    def send(self: object, request: requests.PreparedRequest, **options: object) -> requests.Response:
        if request.url != CONTEXT:
            raise requests.ConnectionError(f"the test has no network, and {request.url} was asked for")
        response = requests.Response()
        response.status_code, response.url, response.request = 200, CONTEXT, request
        response.headers["Content-Type"] = "application/ld+json"
        response._content = json.dumps({"@context": json.loads(TERMS.read_text())["@context"]}).encode()
        return response

    with mock.patch("requests.adapters.HTTPAdapter.send", send):
        yield
