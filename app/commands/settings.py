"""`thumbloop settings`: lists every setting with its value, the value's origin, and what it does."""

import textwrap

import typer

from app.commands.terminal import ACTOR, console, opened_database, say
from storage.db.changed_settings import change_setting, current_settings, read_changes, reset_setting
from storage.errors import InvalidInput, NotReady
from storage.settings import Settings, describe, known_setting, load_settings, why_fixed
from storage.settings.shown import allowed, schemas, shown_value, source_of
from storage.settings.validators import variable
from trainer.runs.schedule import check_schedule

TITLE = """# Settings

Thumbloop reads its settings at start: from environment variables, then from a file `thumbloop.toml`
in the working directory, where the names are in lower case and without `THUMBLOOP_`:

```toml
port = 8000
schedule = "0 3 * * *"
```

An unknown name or an invalid value is refused at start, with one line that says what is allowed.
`thumbloop settings` shows the current values and where they come from.

Those marked "live" can also be changed while servers run: on the admin page, by the API, or by
`thumbloop settings NAME --set VALUE`. A changed value is in the database and wins over the configured one
until it is reset. Servers have it within a second or two; a training has the values of its beginning.

`thumbloop settings --markdown` prints this page.

| Setting | Default | Values | Changed | What it does |
|---|---|---|---|---|
"""

WIDEST = 100  # columns of a text


def settings(
    name: str = typer.Argument("", help="Explain this setting alone, such as BETA.", show_default=False),
    value: str | None = typer.Option(
        None, "--set", help="Change the setting to this, while servers run and for the next training."
    ),
    reset: bool = typer.Option(False, "--reset", help="Let the configured value apply again."),
    markdown: bool = typer.Option(False, "--markdown", help="Print docs/settings.md instead."),
) -> None:
    """List all settings with their values and what they do; explain or change one."""
    if markdown:
        typer.echo(markdown_page())
    elif value is not None or reset:
        _change(name, value, reset)
    elif name:
        say(explained(name, width=min(console.width, WIDEST)))
    else:
        _list()


def _change(name: str, value: str | None, reset: bool) -> None:
    if not name or (reset and value is not None):
        raise InvalidInput("Name one setting, and either --set VALUE or --reset.")
    with opened_database() as (configured, database), database.write() as session:
        if reset:
            reset_setting(session, configured, name, by=ACTOR)
        else:
            change_setting(session, configured, name, value, by=ACTOR, check=check_schedule)
    became = "as configured" if reset else "changed"
    say(f"{variable(known_setting(name))} is {became}, within seconds on all servers.")


def _list() -> None:
    current, changes = load_settings(), set()
    # A database is not made for this.
    if current.database_url or (current.data_dir / "thumbloop.db").exists():
        try:
            with opened_database() as (configured, database), database.read() as session:
                current, changes = current_settings(session, configured), set(read_changes(session))
        except NotReady as error:
            say(f"These are as configured; what was changed since is not known. {error.message}")
    for field in Settings.model_fields:
        shown = shown_value(field, getattr(current, field))
        source = "changed here" if field in changes else source_of(field)
        say(f"{variable(field)}={shown} ({source})")
        say(_indented(describe(field), min(console.width, WIDEST)))


def explained(name: str, width: int) -> str:
    """What a setting does and takes, whether or not its present value is valid. Raises BadSetting."""
    field = known_setting(name)
    schema = schemas()[field]
    takes = f"Takes: {allowed(schema).replace('`', '')}. Default: {shown_value(field, schema['default'])}."
    return "\n".join([variable(field), _indented(describe(field), width), _indented(takes, width)])


def _indented(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False)


def markdown_page() -> str:
    """The text of docs/settings.md, without its final newline."""
    return TITLE + "\n".join(
        f"| `{variable(name)}` | `{shown_value(name, schema['default'])}` | {allowed(schema)} "
        f"| {'at start' if why_fixed(name) else 'live'} | {describe(name)} |"
        for name, schema in schemas().items()
    )
