"""The `thumbloop` command line: registers the commands and prints every expected error as one line on stderr.

Exit codes: 0 done, 1 refused, 2 misused or not ready (a setting, the model, the machine); `train` adds
its own.
"""

import sys
from importlib.metadata import version

import typer

from app.commands import accounts, data, doctor, feedback, serve, settings, sweep, train, versions
from app.judge.command import bootstrap, judge, pool
from app.judge.two_turns.command import evaluate
from app.simulation.command import simulate
from app.simulation.demo_command import demo
from storage.errors import NotReady, NotStored, ThumbloopError

cli = typer.Typer(
    help="A chat app that learns from its thumbs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


VERSION = typer.Option(False, "--version", help="Show the version and stop.")


@cli.callback(invoke_without_command=True)
def _options(show_version: bool = VERSION) -> None:
    if show_version:
        typer.echo(f"thumbloop {version('thumbloop')}")
        raise typer.Exit


for command in (
    *(
        serve.serve,
        train.train,
        sweep.sweep,
        simulate,
        demo,
        pool,
        judge,
        bootstrap,
        versions.versions,
        evaluate,
        versions.deploy,
        versions.reject,
        versions.rollback,
    ),
    *(data.backup, data.restore, data.erase_user, data.erase_before, data.quarantine),
    *(accounts.admin_link, settings.settings, doctor.doctor),
):
    cli.command()(command)  # by the function's name
cli.command("import")(feedback.import_feedback)
cli.command("export")(feedback.export_feedback)
cli.command("formats")(feedback.show_formats)
cli.command("audit")(data.audit_log)
cli.add_typer(versions.canary_commands, name="canary")
cli.add_typer(data.guard_commands, name="guard")
cli.add_typer(feedback.columns_commands, name="columns")
cli.add_typer(feedback.votes_commands, name="votes")
cli.add_typer(accounts.user_commands, name="user")
cli.add_typer(accounts.token_commands, name="token")


def main() -> None:
    try:
        cli()
    except ThumbloopError as error:
        typer.echo(f"thumbloop: {error.message}", err=True)
        sys.exit(2 if isinstance(error, NotReady | NotStored) else 1)
    except BrokenPipeError:  # as in `thumbloop export - | head`
        sys.stdout = None  # prevents a flush at exit, which would fail too
        sys.exit(1)


if __name__ == "__main__":
    main()
