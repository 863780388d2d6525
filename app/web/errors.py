"""Answers every error with JSON of one shape: {"error": {"code", "message", "field"?}}.

Under /v1 the shape is OpenAI's, {"error": {"message", "type", "param", "code"}}, with OpenAI's codes if any.
"""

import json
import logging
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from app.telemetry.request_ids import HEADER, request_id
from app.web.languages import ENGLISH, LANGUAGES, Language, language_of
from app.web.languages import HEADER as LANGUAGE_HEADER
from app.web.openapi_names import methods, refuse_unknown
from app.web.sign_in import page
from storage.errors import Busy, InvalidInput, NotFound, ThumbloopError

log = logging.getLogger(__name__)


class Problem(BaseModel):
    code: str = Field(description="Stable, for programs.")
    message: str = Field(description="For people: what was wrong and what to do about it.")
    field: str | None = Field(None, description="The offending input; left out where there is none.")


class ErrorOut(BaseModel):
    error: Problem


# The shape of every refusal, for the OpenAPI description.
REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorOut, "description": "What was refused."}}

PROGRAMS = ("/api/", "/v1/")  # for programs: an unknown path below these is an error, never a page
HTTP_CODES = {
    400: "bad_request",
    401: "not_authenticated",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
}
OPENAI_TYPES = {403: "permission_error", 429: "rate_limit_error"}  # the others follow from the status
OPENAI_CODES = {"not_authenticated": "invalid_api_key", "invalid_input": "invalid_value"}


def error_response(error: ThumbloopError, path: str, language: Language = ENGLISH) -> JSONResponse:
    """The answer to a request for `path` that failed with this error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    status = error.status
    if is_openai(path) and status == 422:
        status = 400  # what OpenAI answers to bad input
    return _answer(status, error_body(error) | {"message": language.error(error)}, path, headers)


def openai_error(error: ThumbloopError) -> dict[str, Any]:
    """The error in OpenAI's shape, for a stream that has begun."""
    return _as_openai(error.status, error_body(error))


def _as_openai(status: int, body: dict[str, Any]) -> dict[str, Any]:
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    # OpenAI writes an index as messages[0].content.
    param = re.sub(r"\.(\d+)\b", r"[\1]", body["field"]) if "field" in body else None
    code = OPENAI_CODES.get(body["code"], body["code"])
    return {"message": body["message"], "type": kind, "param": param, "code": code}


def error_body(error: ThumbloopError) -> dict[str, Any]:
    body = {"code": error.code, "message": error.message}
    if error.field is not None:
        body["field"] = error.field
    return body


def is_openai(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def _answer(
    status: int, body: dict[str, Any], path: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    # A message may quote half of a surrogate pair, which UTF-8 cannot encode.
    body = {name: str(text).encode(errors="backslashreplace").decode() for name, text in body.items()}
    if is_openai(path):
        body = _as_openai(status, body)
    return JSONResponse({"error": body}, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Make the app answer every error in this shape."""

    @app.exception_handler(ThumbloopError)
    async def ours(request: Request, error: ThumbloopError) -> Response:
        if error.status >= 500 and not isinstance(error, Busy):
            log.error("%s %s: %s", request.method, request.url.path, error.message)
        return error_response(error, request.url.path, _asked_for(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = _first_problem(request, error)
        kind = error.errors()[0]["type"]
        if is_openai(request.url.path) and found.code == InvalidInput.code:
            if kind == "missing":
                found.code = "missing_required_parameter"
            elif kind.endswith("_type"):
                found.code = "invalid_type"
        return error_response(found, request.url.path, _asked_for(request))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        path, headers = request.url.path, dict(error.headers or {})
        message = str(error.detail)
        nothing = NotFound("There is nothing at {path}; /docs lists what there is.", path=path)
        if error.status_code == 404:
            message = nothing.message
            if meant := _meant(app, path):
                message = f"{message} Did you mean {meant}?"
        elif error.status_code == 405:
            # Starlette lists the methods of one route only; a path may have several routes.
            headers["Allow"] = ", ".join(methods(request.app, path)) or headers.get("Allow", "GET")
            message = f"{path} does not take {request.method}; it takes {headers['Allow']}."
        is_page = error.status_code == 404 and not path.startswith(PROGRAMS)
        if is_page and "text/html" in request.headers.get("accept", ""):
            # Of the outer app: Gradio has put its own one into the request.
            language = language_of(request.headers, request.cookies, app.state.services.settings)
            return page(language, "page.html", "nothing_here", 404, alert=language.error(nothing))
        code = HTTP_CODES.get(error.status_code, "http_error")
        return _answer(error.status_code, {"code": code, "message": message}, path, headers)

    @app.exception_handler(OperationalError)
    async def database_down(request: Request, error: OperationalError) -> Response:
        log.error("%s %s: %s", request.method, request.url.path, error.orig)
        busy = Busy("The database does not answer; try again in a moment.", code="database_unavailable")
        return error_response(busy, request.url.path)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, _: ClientDisconnect) -> Response:
        body = {"code": "incomplete", "message": "The body ended before its announced length."}
        return _answer(400, body, request.url.path, {})  # for the log: nobody reads it

    @app.exception_handler(Exception)
    async def bug(request: Request, _: Exception) -> Response:
        # Starlette re-raises the error, so the log has its traceback, and sends this answer outside all
        # middleware, so the header is set here.
        message = "The server met an error that it did not expect; its log says more."
        body = {"code": "internal", "message": message}
        return _answer(500, body, request.url.path, {HEADER: request_id()})


def _meant(app: FastAPI, path: str) -> str | None:
    """The route that was missed by a base address without its /v1, with two of them, or with odd slashes."""
    plain = "/" + "/".join(part for part in path.split("/") if part)
    route = plain.rpartition("/v1/")[2].lstrip("/")
    guesses = (plain, f"/v1/{route}", f"/api/v1/{route}")
    return next((guess for guess in guesses if guess != path and methods(app, guess)), None)


def _asked_for(request: Request) -> Language:
    """Programs read English; the chat page's scripts say in which language a person reads."""
    return LANGUAGES.get(request.headers.get(LANGUAGE_HEADER, ""), ENGLISH)


def _first_problem(request: Request, error: RequestValidationError) -> ThumbloopError:
    problem = error.errors()[0]
    kind, (place, *names) = problem["type"], problem["loc"]
    if kind == "json_invalid":
        return InvalidInput(f"The body is not JSON: {problem['ctx']['error']}.", code="invalid_json")
    if kind == "extra_forbidden" and place in ("query", "body"):
        return refuse_unknown(request, place, str(names[-1]))
    field = ".".join(map(str, names)) or None
    if field is None and place == "body" and isinstance(problem.get("input"), bytes):
        return InvalidInput(
            "The body was not read as JSON: send it with the header Content-Type: application/json.",
            code="invalid_json",
        )
    return InvalidInput(_sentence(problem, field or f"The {place}"), field=field)


def _sentence(problem: dict[str, Any], what: str) -> str:
    kind, limits, given = problem["type"], problem.get("ctx", {}), problem.get("input")
    if kind == "missing":
        return f"{what} is missing."
    if kind in ("bool_type", "bool_parsing"):
        return f"{what} must be true or false, not {_shown(problem)}."
    if kind in ("model_attributes_type", "model_type", "dict_type"):
        return f"{what} must be a JSON object, not {_shown(problem)}."
    if kind.endswith(("too_long", "too_short")) and isinstance(given, str | list):
        end, limit = ("most", "max_length") if kind.endswith("too_long") else ("least", "min_length")
        unit = "characters" if isinstance(given, str) else "items"
        return f"{what} has {len(given)} {unit}; the {end} is {limits[limit]}."
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    if kind != "value_error":
        return f"{what}: {message}, not {_shown(problem)}."
    # Our own checks write the complete message; the value is added unless it is an object.
    return (
        f"{what}: {message}."
        if isinstance(given, dict)
        else f"{what} cannot be {_shown(problem)}: {message}."
    )


def _shown(problem: dict[str, Any]) -> str:
    """The offending value as JSON, in ASCII, because half a surrogate pair cannot be encoded."""
    try:
        text = json.dumps(problem.get("input"))
    except (TypeError, ValueError):
        text = repr(problem.get("input")).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 100 else f"{text[:97]}..."
