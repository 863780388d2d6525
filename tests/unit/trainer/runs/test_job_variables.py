"""What a job of a cluster is told of the server's settings."""

from pathlib import Path

from storage.settings import Settings
from trainer.runs.executors import job_variables


def test_a_job_gets_what_a_trainer_needs_and_no_secret_of_the_server(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        beta=0.2,
        database_url="postgresql+psycopg://ada@db/x",
        rate_limit_store="redis://:hidden-1@store",
        openai_api_key="hidden-2",
        metrics_token="hidden-3" * 4,
    )
    told = job_variables(settings)
    assert told["THUMBLOOP_BETA"] == "0.2"
    assert told["THUMBLOOP_DATABASE_URL"] == "postgresql+psycopg://ada@db/x"
    assert "hidden" not in str(told)
