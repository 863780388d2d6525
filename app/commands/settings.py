"""`thumbloop settings`: lists every setting with its value, the value's origin, and what it does."""

import textwrap

import typer

from app.commands.terminal import console, say
from storage.errors import BadSetting
from storage.settings import Settings, describe, load_settings
from storage.settings.shown import allowed, schemas, shown_value, source_of
from storage.settings.validators import variable

TITLE = """# Settings

Thumbloop reads its settings once, at start: from environment variables, then from a file `thumbloop.toml`
in the working directory, where the names are in lower case and without `THUMBLOOP_`:

```toml
port = 8000
schedule = "0 3 * * *"
```

An unknown name or an invalid value is refused at start, with one line that says what is allowed.
`thumbloop settings` shows the current values and where they come from.

`thumbloop settings --markdown` prints this page.

| Setting | Default | Values | What it does |
|---|---|---|---|
"""

WIDEST = 100  # columns of a text


def settings(
    name: str = typer.Argument("", help="Explain this setting alone, such as BETA.", show_default=False),
    markdown: bool = typer.Option(False, "--markdown", help="Print docs/settings.md instead."),
) -> None:
    """List all settings with their values and what they do, or explain one."""
    if markdown:
        typer.echo(markdown_page())
    elif name:
        say(explained(name, width=min(console.width, WIDEST)))
    else:
        current = load_settings()
        for field in Settings.model_fields:
            value = shown_value(field, getattr(current, field))
            say(f"{variable(field)}={value} ({source_of(field)})")
            say(_indented(describe(field), min(console.width, WIDEST)))


def explained(name: str, width: int) -> str:
    """What a setting does and takes, whether or not its present value is valid. Raises BadSetting."""
    field = name.lower().removeprefix("thumbloop_")
    if field not in Settings.model_fields:
        raise BadSetting(f"{name} is not a setting; `thumbloop settings` lists them all.", field=name)
    schema = schemas()[field]
    takes = f"Takes: {allowed(schema).replace('`', '')}. Default: {shown_value(field, schema['default'])}."
    return "\n".join([variable(field), _indented(describe(field), width), _indented(takes, width)])


def _indented(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False)


def markdown_page() -> str:
    """The text of docs/settings.md, without its final newline."""
    return TITLE + "\n".join(
        f"| `{variable(name)}` | `{shown_value(name, schema['default'])}` | {allowed(schema)} "
        f"| {describe(name)} |"
        for name, schema in schemas().items()
    )
