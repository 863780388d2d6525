"""The webhook against a real receiver that fails, hangs, trickles and redirects, and servers that die."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from sqlmodel import select
from standardwebhooks import Webhook

from app.background.webhook import WebhookSender
from storage.chats import votes
from storage.db.database import Database
from storage.db.tables import WebhookDelivery, now
from storage.errors import BadSetting
from storage.settings import Settings
from tests.support import http_loop
from tests.support.databases import outage
from tests.support.http_stub import StubHandler
from tests.support.live_server import StartServer, wait_until
from tests.support.rest import refused
from tests.support.rows import add_person_with_reply
from tests.support.webhook_receiver import Answer, receiving, status

SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"


@contextmanager
def sending(database: Database, settings: Settings, url: str, **more: Any) -> Iterator[WebhookSender]:
    chosen = settings.model_copy(
        update={"webhook_url": url, "webhook_secret": SECRET, "webhook_timeout_seconds": 60.0, **more}
    )
    sender = WebhookSender(database, chosen)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()


def cast(database: Database, number: int = 1) -> None:
    with database.write() as session:
        for _ in range(number):
            person, _, reply = add_person_with_reply(session)
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True, comment="Gut 🙂")


def deliveries(database: Database) -> list[WebhookDelivery]:
    with database.read() as session:
        return list(session.exec(select(WebhookDelivery)))


def wait_for(database: Database, true: Callable[[WebhookDelivery], Any], number: int = 1) -> None:
    def done() -> bool:
        found = deliveries(database)
        return len(found) == number and all(true(delivery) for delivery in found)

    wait_until(done, explain=lambda: str(deliveries(database)))


def delivered(delivery: WebhookDelivery) -> bool:
    return delivery.delivered_at is not None


def test_a_vote_is_told_signed_and_once(database: Database, settings: Settings) -> None:
    cast(database)  # history
    with receiving() as receiver, sending(database, settings, receiver.url):
        cast(database)
        wait_for(database, delivered)
        (delivery,) = receiver.received
        body = Webhook(SECRET).verify(delivery.body, delivery.headers)
        assert body["type"] == "vote.cast"
        assert body["data"]["event_id"] == 2
        assert body["data"]["comment"] == "Gut 🙂"
        assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
        assert delivery.headers["content-type"] == "application/json"
        with pytest.raises(Exception, match="signature"):
            Webhook(SECRET).verify(delivery.body.replace(b"vote.cast", b"vote.kept"), delivery.headers)


def test_an_outage_of_the_database_is_logged_once(
    database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as receiver, sending(database, settings, receiver.url):
        outage(database, "webhook_cursor")
        cast(database)
        wait_for(database, delivered)
    assert [record.message for record in caplog.records] == [
        "Reading votes for the webhook failed; trying again."
    ]


def hanging(released: threading.Event) -> Answer:
    def answer(handler: StubHandler) -> None:
        released.wait(60)
        status(204)(handler)

    return answer


def trickling(released: threading.Event) -> Answer:
    """A header a moment, for ever: no single wait is long."""

    def answer(handler: StubHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not released.wait(0.05):
            handler.wfile.write(b"X-More: more\r\n")

    return answer


def endless(handler: StubHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
    while True:
        handler.wfile.write(b"x" * 65536)


def test_whatever_goes_wrong_the_same_delivery_comes_again_until_it_is_taken(
    database: Database, settings: Settings
) -> None:
    released = threading.Event()
    answers = [
        status(500),
        status(302, Location="/elsewhere"),
        hanging(released),
        trickling(released),
        endless,
    ]
    with (
        receiving(*answers) as receiver,
        sending(database, settings, receiver.url, webhook_timeout_seconds=2.0),
    ):
        cast(database, len(answers))
        wait_for(database, delivered, len(answers))
        released.set()
        assert {delivery.path for delivery in receiver.received} == {"/votes"}
        bodies: dict[str, list[bytes]] = {}
        for delivery in receiver.received:
            bodies.setdefault(delivery.id, []).append(delivery.body)
        # An answer that never ends is still an answer; after each of the others the same was asked again. One
        # delivery may meet two of them, where its second try comes before another's first.
        assert len(bodies) == len(answers)
        assert len(receiver.received) >= len(answers) + len(answers) - 1
        assert all(len(set(each)) == 1 for each in bodies.values())


def test_a_delivery_that_nobody_listens_for_says_so(database: Database, settings: Settings) -> None:
    with receiving() as receiver:
        url = receiver.url
    with sending(database, settings, url):
        cast(database)
        wait_for(database, lambda each: each.last_error and "Connect" in each.last_error)


def test_gone_gives_up_at_once(database: Database, settings: Settings) -> None:
    with receiving(status(410)) as receiver, sending(database, settings, receiver.url):
        cast(database)
        wait_for(database, lambda each: each.failed_at)
        (delivery,) = deliveries(database)
        assert (delivery.attempts, delivery.last_error) == (1, "The receiver answered 410.")


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_receiver_that_asks_for_a_pause_gets_it(database: Database, settings: Settings, form: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    busy = status(503, Retry_After="7200" if form == "seconds" else date)
    with receiving(busy) as receiver, sending(database, settings, receiver.url):
        cast(database)
        wait_for(database, lambda each: each.last_error)
        (delivery,) = deliveries(database)
        assert delivery.next_attempt_at > now() + timedelta(minutes=110)


@pytest.mark.both_engines
def test_two_servers_share_the_work_and_send_nothing_twice(database: Database, settings: Settings) -> None:
    other = Database(settings.database_address)
    with (
        receiving() as receiver,
        sending(database, settings, receiver.url),
        sending(other, settings, receiver.url),
    ):
        cast(database, 40)
        wait_for(database, delivered, 40)
        assert len(receiver.received) == len({delivery.id for delivery in receiver.received}) == 40
    other.close()


def test_a_damaged_secret_is_said_at_the_start_and_not_by_a_thread(
    database: Database, settings: Settings
) -> None:
    (settings.data_dir / "secret.key").write_bytes(b"short")
    with (
        pytest.raises(BadSetting, match="restore it"),
        sending(database, settings, "http://127.0.0.1:9/votes"),
    ):
        pass


@pytest.mark.both_engines
def test_a_sender_that_stops_in_mid_delivery_sends_again_after_its_lease(
    database: Database, settings: Settings
) -> None:
    released = threading.Event()
    with receiving(hanging(released)) as receiver:
        with sending(database, settings, receiver.url, webhook_timeout_seconds=600.0):
            cast(database)
            wait_until(lambda: receiver.received)
        (delivery,) = deliveries(database)
        assert delivery.delivered_at is None
        assert delivery.lease_until is not None
        released.set()
        with database.write() as session:
            delivery.lease_until = now()
            session.add(delivery)
        with sending(database, settings, receiver.url):
            wait_for(database, delivered)
    assert len(receiver.received) == 2
    assert len({delivery.id for delivery in receiver.received}) == 1


def test_a_server_killed_right_after_a_vote_tells_of_it_when_it_is_back(
    start_server: StartServer,
) -> None:
    with receiving(*[status(500)] * 3) as receiver:
        server = start_server(webhook_url=receiver.url, webhook_secret=SECRET, webhook_timeout_seconds=10)
        with server.client() as client:
            replies = [http_loop.chat_once(client, f"Hello {number}") for number in range(5)]
            for reply in replies:
                http_loop.vote(client, reply["message_id"], True)
            server.kill()
        server.start()
        with server.client() as client:

            def all_told() -> bool:
                items = http_loop.checked(client.get("/api/v1/webhook-deliveries"))["items"]
                return len(items) == 5 and all(item["delivered_at"] for item in items)

            wait_until(all_told)
            notified = {json.loads(each.body)["data"]["message_id"] for each in receiver.received}
            assert notified == {reply["message_id"] for reply in replies}
            assert all(count == 1 for count in receiver.most_at_once.values())

            first = http_loop.checked(client.get("/api/v1/webhook-deliveries", params={"limit": 3}))
            rest = http_loop.checked(
                client.get("/api/v1/webhook-deliveries", params={"cursor": first["next"]})
            )
            assert [len(first["items"]), len(rest["items"]), rest["next"]] == [3, 2, None]
            path = f"/api/v1/webhook-deliveries/{first['items'][0]['id']}/retry"
            refused(client.post(path), 409, "already_delivered")
        with server.client("user", "eve") as eve:
            refused(eve.get("/api/v1/webhook-deliveries"), 403)
