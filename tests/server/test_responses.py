"""The shape of answers."""

from __future__ import annotations

import json

import pytest

from sdmanager.errors import ServerBusyError, ServerError, UnauthorizedError
from sdmanager.server.responses import error_response, json_response, protect


def test_values_and_ready_bytes_become_json():
    for value in ({"a": "ä\udc80", "b": None}, b'{"a": 1}'):
        response = json_response(value, 201, {"Location": "/x"})
        assert response.status == 201
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Location"] == "/x"
        assert json.loads(response.body) == (value if isinstance(value, dict) else {"a": 1})


def test_headers_can_be_others():
    assert json_response({}, headers={"Cache-Control": "max-age=5"}).headers["Cache-Control"] == "max-age=5"


def test_a_number_that_json_has_not_is_not_sent():
    with pytest.raises(ValueError, match="JSON"):
        json_response({"a": float("nan")})


def test_an_error_has_its_status_code_and_suggestion():
    response = error_response(ServerBusyError("Busy.", hint="Wait.", details={"retry_after": 7}))
    assert response.status == 503
    assert json.loads(response.body) == {
        "error": {"message": "Busy.", "code": "SERVER_BUSY", "suggestion": "Wait."}
    }
    assert response.headers["Retry-After"] == "7"


def test_an_error_without_a_hint_suggests_nothing_and_details_stay_here():
    response = error_response(ServerError("No.", details={"secret": "x"}))
    assert json.loads(response.body) == {"error": {"message": "No.", "code": "SERVER_ERROR"}}
    assert "Retry-After" not in response.headers


def test_a_missing_token_says_how_to_show_one():
    assert error_response(UnauthorizedError("No.")).headers["WWW-Authenticate"] == "Bearer"


def test_protection_leaves_what_is_set():
    response = json_response({}, headers={"Cache-Control": "max-age=5"})
    protect(response)
    assert response.headers["Cache-Control"] == "max-age=5"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_an_error_may_have_the_body_of_another_api():
    error = ServerBusyError("Busy.", details={"retry_after": 7})
    response = error_response(error, {"X-More": "1"}, status=429, body={"detail": "Busy."})
    assert (response.status, json.loads(response.body)) == (429, {"detail": "Busy."})
    assert (response.headers["Retry-After"], response.headers["X-More"]) == ("7", "1")
    assert json.loads(error_response(error, body={}).body) == {}
