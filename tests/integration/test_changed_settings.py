"""Settings changed while a server runs: by the API and the command line, for servers and trainers."""

import httpx
import pytest
from sqlmodel import select

from storage.db.database import Database
from storage.db.tables import Message, TrainingRun
from storage.settings import SECRETS, changeable_settings
from tests.support.http_loop import chat_once, checked, import_votes, request_run, wait_for_run
from tests.support.live_server import LiveServer, wait_until
from tests.support.programs import run_command
from tests.support.rest import refused

SETTINGS = "/api/v1/settings"


@pytest.fixture(scope="module")
def server_settings() -> dict[str, object]:
    return {"max_new_tokens": 12, "min_votes_per_class": 500}


def setting(client: httpx.Client, name: str) -> dict[str, str]:
    items = checked(client.get(SETTINGS))["items"]
    found: dict[str, str] = next(one for one in items if one["name"] == f"THUMBLOOP_{name}")
    return found


def test_a_changed_setting_holds_for_replies_and_trainings_until_it_is_reset(
    shared_server: LiveServer, client: httpx.Client, store: Database
) -> None:
    (changed,) = checked(client.put(f"{SETTINGS}/max_new_tokens", json={"value": "3"}))["items"]
    assert (changed["value"], changed["source"], changed["default"]) == ("3", "changed here", "512")
    assert changed["changed_by"] == checked(client.get("/api/v1/me"))["id"]
    message = chat_once(client, "Hello")["message_id"]
    with store.read() as session:
        sampling = session.get_one(Message, message).sampling
    assert sampling is not None
    assert sampling["max_new_tokens"] == 3
    assert setting(client, "MAX_NEW_TOKENS")["source"] == "changed here"

    import_votes(client, 12)
    assert wait_for_run(shared_server, client, request_run(client))["state"] == "skipped"
    checked(client.put(f"{SETTINGS}/THUMBLOOP_MIN_VOTES_PER_CLASS", json={"value": "2"}))
    checked(client.put(f"{SETTINGS}/beta", json={"value": "0.35"}))
    run = wait_for_run(shared_server, client, request_run(client))
    assert run["state"] == "succeeded", run["reason"]
    with store.read() as session:
        row = session.exec(select(TrainingRun).where(TrainingRun.id == run["id"])).one()
    assert (row.settings["beta"], row.settings["min_votes_per_class"]) == (0.35, 2)

    checked(client.delete(f"{SETTINGS}/max_new_tokens"))
    assert setting(client, "MAX_NEW_TOKENS")["value"] == "12"
    events = checked(client.get("/api/v1/audit", params={"target": "THUMBLOOP_MAX_NEW_TOKENS"}))["items"]
    told = [(event["action"], event["detail"]) for event in events]
    assert told == [
        ("reset setting", {"before": 3, "value": 12}),
        ("change setting", {"before": 12, "value": 3}),
    ]


def test_what_another_program_changed_arrives_and_the_schedule_follows(
    shared_server: LiveServer, client: httpx.Client
) -> None:
    def thumbloop(*words: str, code: int = 0) -> str:
        ended = run_command("settings", *words, environment=shared_server.environment)
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    def scheduled() -> str:
        return str(checked(client.get("/api/v1/stats"))["schedule"]["description"])

    assert scheduled().startswith("No schedule")
    assert "is changed" in thumbloop("schedule", "--set", "15 4 * * *")
    wait_until(lambda: "15 4 * * *" in scheduled())
    assert checked(client.get("/api/v1/stats"))["schedule"]["next_run"].endswith("04:15:00Z")
    assert "THUMBLOOP_SCHEDULE=15 4 * * * (changed here)" in thumbloop()
    assert "is as configured" in thumbloop("schedule", "--reset")
    wait_until(lambda: scheduled().startswith("No schedule"))
    assert "either --set VALUE or --reset" in thumbloop("--reset", code=1)


def test_what_cannot_be_changed_says_why(client: httpx.Client, stranger: httpx.Client) -> None:
    for name, value, said in (
        ("temperature", "hot", "THUMBLOOP_TEMPERATURE='hot': Input should be a valid number"),
        ("beta", "-1", "should be greater than 0"),
        ("schedule", "99 3 * * *", "is not a schedule"),
        ("data_policy", "window", "THUMBLOOP_WINDOW_DAYS"),  # it does not fit the others
    ):
        assert said in refused(client.put(f"{SETTINGS}/{name}", json={"value": value}), 422, field="value")
    for name, said in (
        ("host", "read once, at the start"),
        ("auth", "who may come in"),
        ("model", "belong to that model"),
        ("metrics_token", "secrets"),
    ):
        message = refused(client.put(f"{SETTINGS}/{name}", json={"value": "x"}), 422, field="name")
        assert said in message
        assert setting(client, name.upper())["fixed"] in message
    refused(client.put(f"{SETTINGS}/nonsense", json={"value": "x"}), 404, "not_found")
    refused(client.delete(f"{SETTINGS}/nonsense"), 404, "not_found")
    refused(stranger.put(f"{SETTINGS}/beta", json={"value": "1"}), 403, "admin_only")
    assert not SECRETS & changeable_settings()
    assert not {"auth", "host", "trusted_proxies", "database_url", "webhook_url"} & changeable_settings()
