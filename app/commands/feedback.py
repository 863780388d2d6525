"""`thumbloop import` and `thumbloop export`: reads and writes rated data, as files or through pipes."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from app.commands.terminal import ACTOR, console, onto_stdout, opened_database, say
from storage.errors import InvalidInput
from storage.imports.formats import FORMATS, NO_OPTIONS, ImportOptions
from storage.settings import SignalKind

if TYPE_CHECKING:
    from storage.exports.shapes import ChatTemplate
    from storage.imports.reader import Progress
    from storage.settings import Settings

PIPE = "-"
SIGNALS = get_args(SignalKind)


def with_import_options(panel: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds every import option to a command, which receives them as `options`."""

    def add_options(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**given: Any) -> None:
            options = ImportOptions(**{name: given.pop(name) for name in ImportOptions.model_fields})
            command(**given, options=options)

        signature = inspect.signature(command)
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=typer.Option(None, help=field.description, rich_help_panel=panel),
                annotation=field.annotation,
            )
            for name, field in ImportOptions.model_fields.items()
        ]
        own = [parameter for name, parameter in signature.parameters.items() if name != "options"]
        with_options.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return with_options

    return add_options


@with_import_options()
def import_feedback(
    file: str = typer.Argument(help="A file or a folder, or - for standard input."),
    format: str | None = typer.Option(
        None, help=f"One of {', '.join(FORMATS)}; detected from the data if not given."
    ),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out bad records, do not refuse the file."),
    options: ImportOptions = NO_OPTIONS,
) -> None:
    """Import rated chats. A row that is there already is not added again."""
    from storage.db import audit
    from storage.imports.importer import import_file

    name = "standard input" if file == PIPE else file
    with opened_database() as (_, database), _shown_progress() as progress:
        report = import_file(
            database,
            sys.stdin.buffer if file == PIPE else Path(file),
            name=name,
            format=format,
            options=options,
            skip_bad=skip_bad,
            progress=progress,
            finish=lambda session, report: audit.record(
                session, ACTOR, "import", name, accepted=report.accepted, rejected=report.rejected
            ),
        )
    for rejection in report.rejections:
        say(f"{rejection.position} left out: {rejection.reason}")
    if report.rejected > len(report.rejections):
        say(f"and {report.rejected - len(report.rejections)} more")
    for reason, rows in report.dropped.items():
        say(f"{rows} dropped: {reason}")
    say(f"{report.accepted} imported, {report.duplicates} there already, {report.rejected} left out.")


def export_feedback(
    file: str = typer.Argument(help="Where to write, or - for standard output."),
    format: Literal["jsonl", "parquet", "csv", "datasets"] = typer.Option(
        "jsonl", help="datasets is a folder with a dataset card."
    ),
    shape: Literal["kto", "kto-text", "pairs", "sharegpt"] = typer.Option(
        "kto", help="What a row is; pairs are for DPO."
    ),
    filters: list[str] = typer.Option(
        [], "--filter", metavar="NAME=VALUE", help="Which examples; may be given several times."
    ),
    duplicates: Literal["keep", "drop"] = typer.Option(
        "keep", help="drop: the same text and label only once."
    ),
    contradictions: Literal["keep", "drop", "majority"] = typer.Option(
        "keep", help="Votes of both kinds on the same text."
    ),
    corrections: bool = typer.Option(
        False, "--corrections", help="Add what replies should have been, as good examples."
    ),
    signals: list[str] = typer.Option(
        [],
        "--signal",
        help=f"Add what people did without voting: {', '.join(SIGNALS)}. May be given several times.",
    ),
    redact: bool = typer.Option(
        False, "--redact", help="Replace personal data by placeholders; needs thumbloop\\[redaction]."
    ),
    snapshot: int | None = typer.Option(
        None, help="As of this vote event, which a manifest names; otherwise all votes so far."
    ),
    licence: str = typer.Option("unknown", help="Licence of the data, such as cc0-1.0."),
    push_to_hub: str | None = typer.Option(
        None, metavar="OWNER/NAME", help="Upload the folder of the format datasets to the Hugging Face hub."
    ),
    public: bool = typer.Option(False, "--public", help="With --push-to-hub: let everybody read it."),
) -> None:
    """Export the votes that training may use, with the chats they judge and a manifest."""
    from storage.db import audit
    from storage.examples.filters import read_filter
    from storage.exports.exporter import Export, export_to
    from storage.exports.plan import ExportPlan
    from storage.exports.redaction import load_redactor
    from storage.files.installation_key import load_secret

    if file == PIPE and format != "jsonl":
        raise InvalidInput(f"Standard output takes jsonl only; name a file for {format}.", field="format")
    if push_to_hub is not None and format != "datasets":
        raise InvalidInput(
            f"--push-to-hub takes a folder; add --format datasets, not {format}.", field="format"
        )
    for kind in signals:
        if kind not in SIGNALS:
            raise InvalidInput(f"--signal {kind!r} is not one of {', '.join(SIGNALS)}.", field="signal")
    plan = ExportPlan(
        format=format,
        shape=shape,
        filter=read_filter(_pairs(filters)),
        duplicates=duplicates,
        contradictions=contradictions,
        corrections=corrections,
        signals=signals,
        redact=redact,
        licence=licence,
    )
    with opened_database() as (settings, database):
        given: dict[str, Any] = {
            "salt": load_secret(settings.data_dir),
            "template": _template(settings) if shape == "kto-text" else None,
            "redactor": (
                load_redactor(settings.redaction_language, settings.redaction_model) if plan.redact else None
            ),
        }
        with database.write() as session:
            # Recorded before the first byte, as in the API: even a failed export may have written data.
            snapshot = Export(session, plan, snapshot_event_id=snapshot, **given).snapshot_event_id
            audit.record(session, ACTOR, "export", f"snapshot {snapshot}", format=format, file=file)
        with database.read() as session:
            export = Export(session, plan, snapshot_event_id=snapshot, **given)
            if file == PIPE:
                _print(export.chunks())
                return
            manifest = export_to(Path(file), export)
    for reason, rows in manifest["left_out"].items():
        say(f"{rows} left out: {reason}")
    say(f"{manifest['rows']} rows to {file}.")
    if push_to_hub is not None:
        from storage.exports.hub import push_to_hub as push

        say(f"Pushed: {push(Path(file), push_to_hub, private=not public)}")


def _print(chunks: Iterator[bytes]) -> None:
    for chunk in chunks:
        with onto_stdout():
            sys.stdout.buffer.write(chunk)
    with onto_stdout():
        sys.stdout.buffer.flush()


def _pairs(filters: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--filter {text!r} is not NAME=VALUE, such as label=up.", field="filter")
        if name in found:
            raise InvalidInput(f"--filter {name} is given twice; all filters must hold.", field=name)
        found[name] = value
    return found


def _template(settings: "Settings") -> "ChatTemplate":
    from trainer.dataset.tokenise import chat_template
    from trainer.model.base_model import load_tokenizer, resolve

    return chat_template(load_tokenizer(resolve(settings, say)))


@contextmanager
def _shown_progress() -> "Iterator[Callable[[Progress], None]]":
    """A progress bar over the file's bytes, on a terminal only."""
    with ProgressBar(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("reading", total=None)

        def show(progress: "Progress") -> None:
            bar.update(
                task,
                description=progress.stage,
                completed=progress.done_bytes,
                total=progress.total_bytes or None,
            )

        yield show
