"""`thumbloop votes`: lists and searches votes with their replies, shows a conversation, excludes votes."""

import typer

from app.commands.data import REASON
from app.commands.options import pairs
from app.commands.terminal import ACTOR, opened_database, print_table, say
from storage.chats.chats import short_title
from storage.db import audit
from storage.examples.filters import read_filter, resolve
from storage.files.installation_key import load_secret
from storage.privacy.quarantine import set_excluded
from storage.review.voted_replies import VoteFilter, conversation, get_voted_reply, list_votes

votes_commands = typer.Typer(help="See what people say: votes with their replies.", no_args_is_help=True)
THUMBS = {True: "up", False: "down"}


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
        found = list_votes(session, wanted, limit=limit)
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
