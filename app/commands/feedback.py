"""`thumbloop import` and `export`: rated data in and out, as files or through pipes; `thumbloop votes`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from app.commands.data import REASON
from app.commands.options import field_options, import_options, pairs, with_options
from app.commands.terminal import ACTOR, console, onto_stdout, opened_database, print_table, say
from storage.chats.chat_votes import cast_chat_vote, chat_vote, clear_chat_vote
from storage.chats.chats import get_chat, short_title
from storage.db import audit
from storage.errors import InvalidInput
from storage.examples.filters import ExampleFilter, read_filter, resolve
from storage.exports.plan import ExportPlan
from storage.files.installation_key import load_secret
from storage.imports.column_maps import (
    is_name,
    list_column_maps,
    remove_column_map,
    save_column_map,
    with_saved_columns,
)
from storage.imports.formats.table import FORMATS
from storage.imports.rows.options import ImportOptions
from storage.people.users import find_user
from storage.privacy.quarantine import set_excluded, set_quarantines
from storage.review import second_ratings
from storage.review.voted_replies import VotedReply, VoteFilter, conversation, get_voted_reply, list_votes
from storage.settings.training import SignalKind
from trainer.taste.review_queue import QUEUES, review_queue
from trainer.taste.themes import disliked_themes
from trainer.text import counted

if TYPE_CHECKING:
    from storage.exports.shapes import ChatTemplate
    from storage.imports.reader import ImportReport, Progress
    from storage.settings import Settings

PIPE = "-"
columns_commands = typer.Typer(help="Maps of columns for imports, saved under a name.", no_args_is_help=True)
MAP_NAME = typer.Argument(metavar="NAME", help="Its name, for `thumbloop import --columns NAME`.")
votes_commands = typer.Typer(help="See what people say: votes with their replies.", no_args_is_help=True)
SHOWN_OF_A_TEXT = 500  # characters, in a preview
THUMBS = {True: "up", False: "down"}
LABELS = {name: label for label, name in THUMBS.items()}
SIGNALS = get_args(SignalKind)
# `filter` and `signals` are written in another way: --filter NAME=VALUE and --signal.
EXPORT_OPTIONS = field_options(
    ExportPlan, [name for name in ExportPlan.model_fields if name not in ("filter", "signals")]
)


@with_options("options", import_options())
def import_feedback(
    options: dict[str, Any],
    file: str = typer.Argument(help="A file or a folder, or - for standard input."),
    format: str | None = typer.Option(
        None, help=f"One of {', '.join(FORMATS)}; detected from the data if not given."
    ),
    skip_bad: bool = typer.Option(
        False, "--skip-bad", help="Leave out bad records instead of refusing the file."
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Store nothing: show the first rows as conversations, and the report."
    ),
) -> None:
    """Import rated chats. A row that was already imported is not added again."""
    from storage.imports.importer import import_file  # loads pyarrow

    name = "standard input" if file == PIPE else file
    chosen = ImportOptions(**options)
    if is_name(chosen.columns):
        with opened_database() as (_, database), database.read() as session:
            chosen = with_saved_columns(session, chosen)
    if dry_run:
        _preview(file, name, format, chosen)
        return
    with opened_database() as (_, database), _shown_progress() as progress:
        report = import_file(
            database,
            sys.stdin.buffer if file == PIPE else Path(file),
            name=name,
            format=format,
            options=chosen,
            skip_bad=skip_bad,
            progress=progress,
            finish=lambda session, report: audit.record(
                session, ACTOR, "import", name, accepted=report.accepted, rejected=report.rejected
            ),
        )
    _say_left_out(report)
    if report.changed:
        say(f"{report.changed} votes changed, which their people had changed since an earlier import")
    say(f"{report.accepted} imported, {report.duplicates} duplicates, {report.rejected} left out.")


@columns_commands.command("list")
def list_columns() -> None:
    """List the saved maps of columns."""
    with opened_database() as (_, database), database.read() as session:
        print_table(("name", "columns"), [(one.name, one.columns) for one in list_column_maps(session)])


@columns_commands.command("save")
def save_columns(
    name: str = MAP_NAME,
    columns: str = typer.Argument(help="The map: prompt=question,reply=answer."),
) -> None:
    """Save a map of columns, or change it."""
    with opened_database() as (_, database), database.write() as session:
        save_column_map(session, name, columns, by=ACTOR)
    say(f"Saved {name}: thumbloop import FILE --columns {name}")


@columns_commands.command("remove")
def remove_columns(name: str = MAP_NAME) -> None:
    """Remove a saved map of columns. What was imported with it stays."""
    with opened_database() as (_, database), database.write() as session:
        remove_column_map(session, name, by=ACTOR)
    say(f"Removed {name}.")


def _preview(file: str, name: str, format: str | None, options: ImportOptions) -> None:
    from storage.imports.preview import preview_file

    with _shown_progress() as progress:
        source = sys.stdin.buffer if file == PIPE else Path(file)
        found = preview_file(source, name=name, format=format, options=options, progress=progress)
    for position, row in found.rows:
        say(f"{position}, thumb {THUMBS[row.label]}")
        for turn in row.turns:
            if turn.reasoning:
                say(f"  [{turn.role}, reasoning] {_beginning(turn.reasoning)}")
            say(f"  [{turn.role}] {_beginning(turn.content)}")
        if row.cut:
            say("  cut at a token limit")
    _say_left_out(found.report)
    say(
        f"Nothing was stored. As {found.report.format or 'no known format'}: {found.up} thumbs up, "
        f"{found.down} down, {found.report.rejected} bad."
    )


def _beginning(text: str) -> str:
    return f"{text[:SHOWN_OF_A_TEXT]}{'…' * (len(text) > SHOWN_OF_A_TEXT)}"


def _say_left_out(report: "ImportReport") -> None:
    for note in report.notes:
        say(note)
    for rejection in report.rejections:
        say(f"{rejection.position} left out: {rejection.reason}")
    if report.rejected > len(report.rejections):
        say(f"and {report.rejected - len(report.rejections)} more")
    for reason, rows in report.dropped.items():
        say(f"{rows} dropped: {reason}")
    for column, records in report.left_out.items():
        say(f"column {column} left out, in {records} records")


def show_formats(
    write: Path | None = typer.Option(None, help="Write them with examples into this page, docs/imports.md."),
) -> None:
    """List the formats that imports know."""
    from storage.imports.formats.page import in_page

    if write is not None:
        write.write_text(in_page(write.read_text()))
    else:
        print_table(("format", "known by"), [(f.name, f.about) for f in FORMATS.values()], empty="")


@with_options("options", EXPORT_OPTIONS)
def export_feedback(
    options: dict[str, Any],
    file: str = typer.Argument(
        help="The file to write, - for standard output, or s3://BUCKET/NAME (docs/exports.md)."
    ),
    filters: list[str] = typer.Option(
        [], "--filter", metavar="NAME=VALUE", help="Which examples; may be given several times."
    ),
    signals: list[str] = typer.Option(
        [], "--signal", help=f"Add signals: {', '.join(SIGNALS)}. May be given several times."
    ),
    snapshot: int | None = typer.Option(
        None, help="Export as of this vote event, which a manifest names. Default: all votes so far."
    ),
    push_to_hub: str | None = typer.Option(
        None, metavar="OWNER/NAME", help="Upload the folder of the format datasets to the Hugging Face hub."
    ),
    public: bool = typer.Option(False, "--public", help="With --push-to-hub: let everybody read it."),
) -> None:
    """Export the votes that training may use, with their chats and a manifest."""
    from storage.exports.exporter import Export, export_to  # loads pyarrow
    from storage.exports.redaction import load_redactor
    from storage.exports.to_bucket import BUCKET, export_to_bucket

    for kind in signals:
        if kind not in SIGNALS:
            raise InvalidInput(f"--signal {kind!r} is not one of {', '.join(SIGNALS)}.", field="signal")
    plan = ExportPlan(filter=read_filter(pairs(filters), ExampleFilter), signals=signals, **options)
    if file == PIPE and plan.format != "jsonl":
        raise InvalidInput(
            f"Standard output takes jsonl only; name a file for {plan.format}.", field="format"
        )
    if push_to_hub is not None and plan.format != "datasets":
        raise InvalidInput(
            f"--push-to-hub takes a folder; add --format datasets, not {plan.format}.", field="format"
        )
    if push_to_hub is not None and file.startswith(BUCKET):
        raise InvalidInput(f"--push-to-hub takes a folder of this machine, not {file}.", field="file")
    with opened_database() as (settings, database):
        given: dict[str, Any] = {
            "salt": load_secret(settings.data_dir),
            "template": _template(settings) if plan.shape == "kto-text" else None,
            "redactor": (
                load_redactor(settings.redaction_language, settings.redaction_model) if plan.redact else None
            ),
        }
        with database.write() as session:
            # Recorded before the first byte, because even a failed export may have written data.
            snapshot = Export(session, plan, snapshot_event_id=snapshot, **given).snapshot_event_id
            audit.record(session, ACTOR, "export", f"snapshot {snapshot}", format=plan.format, file=file)
        with database.read() as session:
            export = Export(session, plan, snapshot_event_id=snapshot, **given)
            if file == PIPE:
                _print(export.chunks())
                return
            if file.startswith(BUCKET):
                options = settings.artifacts_options
                manifest = export_to_bucket(file, options, export, aside=settings.data_dir)
            else:
                manifest = export_to(Path(file), export)
    for reason, rows in manifest["left_out"].items():
        say(f"{rows} left out: {reason}")
    say(f"{manifest['rows']} rows written to {file}.")
    if push_to_hub is not None:
        from storage.exports.hub import push_to_hub as push

        say(f"Pushed: {push(Path(file), push_to_hub, private=not public)}")


def _print(chunks: Iterator[bytes]) -> None:
    for chunk in chunks:
        with onto_stdout():
            sys.stdout.buffer.write(chunk)
    with onto_stdout():
        sys.stdout.buffer.flush()


def _template(settings: "Settings") -> "ChatTemplate":
    from trainer.dataset.template import chat_template
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


@votes_commands.command("list")
def list_voted_replies(
    filters: list[str] = typer.Option(
        [],
        "--filter",
        metavar="NAME=VALUE",
        help=f"Which votes; may be given several times. Names: {', '.join(VoteFilter.model_fields)}.",
    ),
    limit: int = typer.Option(20, min=1, max=1000, help="The largest number of votes."),
) -> None:
    """List votes, newest first."""
    wanted = read_filter(pairs(filters), VoteFilter)
    with opened_database() as (settings, database), database.read() as session:
        wanted = resolve(session, wanted, salt=load_secret(settings.data_dir))
        page = list_votes(session, wanted, limit=limit)
        found = page.votes
        while page.next is not None and len(found) < limit:
            page = list_votes(session, wanted, limit=limit - len(found), before=page.next)
            found += page.votes
    _print_votes(found)


@votes_commands.command("queue")
def show_review_queue(
    queue: str = typer.Argument(..., help=f"{', '.join(QUEUES)}."),
    limit: int = typer.Option(20, min=1, max=1000, help="The largest number of votes."),
) -> None:
    """List votes that a second rating says most about."""
    if queue not in QUEUES:
        raise InvalidInput(f"{queue!r} is not a queue; there are {', '.join(QUEUES)}.", field="queue")
    with opened_database() as (_, database), database.read() as session:
        _print_votes(review_queue(session, queue, by=ACTOR)[:limit])


def _print_votes(found: Sequence[VotedReply]) -> None:
    print_table(
        ("vote", "thumb", "version", "training", "question", "reply"),
        [
            (
                vote.id,
                THUMBS[vote.label],
                vote.model_version or "",
                vote.use,
                short_title(vote.question),
                short_title(vote.reply),
            )
            for vote in found
        ],
        empty="No vote matches.",
    )


@votes_commands.command("show")
def show_vote(vote_id: str = typer.Argument(help="The id of a vote.")) -> None:
    """Show a vote and its conversation. That it was read is in the audit log."""
    with opened_database() as (_, database), database.write() as session:
        vote = get_voted_reply(session, vote_id)
        audit.record(session, ACTOR, "read conversation", vote.chat_id)
        for message in conversation(session, vote):
            say(f"[{message.role}] {message.content}\n")
    details = {"tags": ", ".join(vote.tags), "comment": vote.comment, "correction": vote.correction}
    say(f"{THUMBS[vote.label]} on {vote.voted_at:%Y-%m-%d %H:%M} UTC; training: {vote.use}")
    for name, text in details.items():
        if text:
            say(f"{name}: {text}")


@votes_commands.command("themes")
def themes() -> None:
    """What the newest thumbs down are about, grouped by their words."""
    with opened_database() as (_, database), database.read() as session:
        found, groups = disliked_themes(session)
    rows = [
        (str(len(theme.places)), ", ".join(theme.words), found[theme.places[0]].question[:80])
        for theme in groups
    ]
    few = "There is too little to group: it takes a dozen thumbs down that have words in common."
    print_table(("votes", "words", "for example"), rows, empty=few)


@votes_commands.command("review")
def review(
    vote_ids: list[str] = typer.Argument(help="The ids of votes."),
    admin: str = typer.Option(..., "--as", help="The name of the admin whose rating it is."),
    label: str = typer.Option("", help="up or down."),
    note: str = typer.Option("", help="A note."),
    correction: str = typer.Option("", help="What the reply should have said; of one vote."),
    undo: bool = typer.Option(False, "--undo", help="Take that admin's ratings of these votes back."),
) -> None:
    """Rate votes a second time: it measures agreement and is not trained on."""
    if label not in ("", *LABELS):
        raise InvalidInput(f"--label is {label!r}; give up or down.", field="label")
    if correction and len(vote_ids) > 1:
        raise InvalidInput("--correction is of one reply; name one vote.", field="correction")
    given = label or note.strip() or correction.strip()
    if undo and given:
        raise InvalidInput("--undo takes ratings back; give it alone.", field="undo")
    rated = LABELS.get(label)
    with opened_database() as (_, database), database.write() as session:
        who = find_user(session, admin)
        if who is None or who.role != "admin":
            raise InvalidInput(f"{admin!r} is no admin; `thumbloop user list` names them.", field="as")
        if not undo and not given:  # to the store it would mean the same as --undo
            raise InvalidInput("Give --label, --note or --correction, or --undo.", field="label")
        if correction:
            texts = {"note": note, "correction": correction}
            second_ratings.rate(session, vote_ids[0], by=who.id, label=rated, **texts)
            changed = vote_ids
        else:  # without a rating and a note it takes them back
            changed = second_ratings.rate_all(session, vote_ids, by=who.id, label=rated, note=note)
    say(f"{len(changed)} {'taken back' if undo else 'rated'}.")


@votes_commands.command("exclude")
def exclude(
    vote_ids: list[str] = typer.Argument(help="The ids of votes."),
    undo: bool = typer.Option(False, "--undo", help="Let training use them again."),
    reason: str = REASON,
) -> None:
    """Keep single votes from training, whatever their people change them to."""
    with opened_database() as (_, database), database.write() as session:
        changed = set_excluded(session, vote_ids, not undo, by=ACTOR, reason=reason)
    say(f"{changed} {'included again' if undo else 'excluded'}.")


@votes_commands.command("quarantine")
def quarantine(
    vote_ids: list[str] = typer.Argument(help="The ids of votes."),
    undo: bool = typer.Option(False, "--undo", help="Release them."),
    reason: str = REASON,
) -> None:
    """Quarantine the people of these votes, with all their votes."""
    with opened_database() as (_, database), database.write() as session:
        changed = set_quarantines(session, not undo, vote_ids=vote_ids, by=ACTOR, reason=reason)
    people = counted(len(changed), "person", "people")
    say(f"{people} {'released' if undo else 'quarantined'}.")


@votes_commands.command("chat")
def vote_on_chat(
    chat_id: str = typer.Argument(help="The id of a chat."),
    thumb: str | None = typer.Argument(None, help="up, down or none; shows the vote if not given."),
) -> None:
    """Vote on a whole chat as the person whose chat it is: replies without a vote of their own share it."""
    if thumb is not None and thumb not in (*LABELS, "none"):
        raise InvalidInput(f"{thumb!r} is not a vote; say up, down or none.", field="thumb")
    with opened_database() as (_, database), database.write() as session:
        person = get_chat(session, chat_id).owner_id
        if thumb is None:
            found = chat_vote(session, user_id=person, chat_id=chat_id)
        elif (label := LABELS.get(thumb)) is None:
            found = clear_chat_vote(session, user_id=person, chat_id=chat_id)
        else:
            found = cast_chat_vote(session, user_id=person, chat_id=chat_id, label=label)
        if thumb is not None:
            audit.record(session, ACTOR, "vote on chat", chat_id, label=found.label)
    if found.label is None:
        say("No vote on the whole chat.")
    else:
        say(f"{THUMBS[found.label]}, shared by {counted(len(found.message_ids), 'reply', 'replies')}.")
