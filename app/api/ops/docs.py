"""The API's documentation at /docs, drawn from its OpenAPI description.

The usual pages load their scripts from elsewhere; this one works without a network and without scripts.
"""

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Thumbloop API</title>
<link rel="icon" href="data:,">
<style>
  :root {{ color-scheme: light dark; --line: color-mix(in srgb, CanvasText 20%, Canvas); }}
  body {{ margin: 0 auto; max-width: 54rem; padding: 1rem 1.5rem 4rem; background: Canvas; color: CanvasText;
         font: 16px/1.55 system-ui, sans-serif; }}
  h2 {{ margin-top: 2.5rem; text-transform: capitalize; }}
  details {{ border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; padding: .5rem .8rem; }}
  summary {{ cursor: pointer; }}
  summary b {{ display: inline-block; min-width: 4.2em; font: 700 .8rem ui-monospace, monospace; }}
  summary span {{ color: color-mix(in srgb, CanvasText 75%, Canvas); margin-left: .6em; }}
  code, pre {{ font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }}
  pre {{ overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; padding: .7rem; }}
  table {{ border-collapse: collapse; width: 100%; }}
  td, th {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
           border-top: 1px solid var(--line); }}
  :is(a, summary):focus-visible {{ outline: 3px solid #14b8a6; outline-offset: 2px; border-radius: .2rem; }}
</style>
</head>
<body><main><h1>Thumbloop API</h1>{body}</main></body>
</html>
"""

INTRODUCTION = """<p>Every request carries an API token, made by
<code>thumbloop token create NAME</code>, as the header
<code>Authorization: Bearer tl_…</code>; a browser that is signed in needs none. Errors are JSON:
<code>{"error": {"code", "message", "field"?}}</code>. The machine-readable description is at
<a href="openapi.json">openapi.json</a>.</p>"""


@router.get("/docs")
def docs(request: Request) -> Response:
    description = request.app.openapi()
    groups: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            group = operation.get("tags", ["other"])[0]
            groups.setdefault(group, []).append(_operation(description, method, path, operation))
    sections = [f"<h2>{escape(name)}</h2>{''.join(entries)}" for name, entries in groups.items()]
    return HTMLResponse(PAGE.format(body=INTRODUCTION + "".join(sections)))


def _operation(description: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    summary = operation.get("description", operation.get("summary", ""))
    title = escape(summary.partition("\n")[0])
    body = operation.get("requestBody", {}).get("content", {})
    parts = [f"<p>{escape(summary)}</p>", _parameters(operation.get("parameters", []))]
    fields: list[tuple[str, ...]] = []
    for content in body.values():
        fields += _fields(description, content.get("schema", {}))
    if fields:
        parts.append("<h3>Body</h3>" + _table(("field", "type", "", "meaning"), fields))
    examples = [
        example for content in body.values() for example in _examples(description, content.get("schema", {}))
    ]
    parts.append(f"<h3>Example</h3><pre>{escape(_curl(method, path, body, fields, examples))}</pre>")
    for status, answer in operation.get("responses", {}).items():
        if status == "4XX":  # the one error shape, described once at the top
            continue
        parts.append(f"<h3>{escape(status)}</h3><p>{escape(answer.get('description', ''))}</p>")
        for content in answer.get("content", {}).values():
            if "example" in content:
                parts.append(f"<pre>{escape(content['example'])}</pre>")
            answered = _fields(description, content.get("schema", {}))
            if answered:
                parts.append(_table(("field", "type", "", "meaning"), answered))
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code>"
        f"<span>{title}</span></summary>{''.join(parts)}</details>"
    )


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = [(p["name"], _type(p["schema"]), f"in {p['in']}", p.get("description", "")) for p in parameters]
    return "<h3>Parameters</h3>" + _table(("name", "type", "", "meaning"), rows) if rows else ""


def _fields(description: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, ...]]:
    return list(_walk(description, schema))


def _walk(description: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for option in schema.get("anyOf", []):
        yield from _walk(description, option)
    if "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        yield name, _type(field), "required" if name in required else "", field.get("description", "")


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type", "any"))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td>" + "".join(f"<td>{escape(c)}</td>" for c in rest) + "</tr>"
        for name, *rest in rows
    )
    return f"<table><tr>{titles}</tr>{lines}</table>"


def _examples(description: dict[str, Any], schema: dict[str, Any]) -> list[Any]:
    found = [each for option in schema.get("anyOf", []) for each in _examples(description, option)]
    if "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return found + list(schema.get("examples", []))


def _curl(
    method: str, path: str, body: dict[str, Any], fields: list[tuple[str, ...]], examples: list[Any]
) -> str:
    address = path.replace("{", "$").replace("}", "").upper() if "{" in path else path
    line = f'curl -X {method.upper()} -H "Authorization: Bearer $TOKEN" http://127.0.0.1:7860{address}'
    if "application/json" in body:
        required = {name: f"<{kind}>" for name, kind, required, _ in fields if required}
        example = examples[0] if examples else required
        line += f" \\\n  -H 'Content-Type: application/json' -d '{json.dumps(example, ensure_ascii=False)}'"
    elif body:
        line += " \\\n  -H 'Content-Type: application/x-ndjson' --data-binary @feedback.jsonl"
    return line
