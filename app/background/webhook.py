"""Sends votes, and what became of versions, to a webhook, as https://www.standardwebhooks.com specifies.

A thread fills the outbox from the log of vote events, claims the due deliveries and sends several at once.
Delivery is at least once: if a server is killed before it records an answer, its lease expires and the
same delivery is sent again under the same webhook-id.
"""

import asyncio
import json
import logging
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import httpx
from anyio.from_thread import start_blocking_portal
from standardwebhooks import Webhook

from app.retry_after import seconds_to_wait
from storage.chats import webhook_outbox
from storage.chats.webhook_outbox import Claim
from storage.db.database import Database
from storage.db.tables import now
from storage.files.installation_key import load_secret
from storage.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
AT_ONCE = 8
# A lease lasts this much longer than a request's time limit, to record the outcome.
LEASE_SLACK = timedelta(seconds=10)
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 3600.0
GONE = 410
PLEASE_WAIT = (429, 503)


@dataclass(frozen=True)
class _Answer:
    status: int  # 0 without an answer
    retry_after: float  # seconds
    error: str = ""


class WebhookSender:
    """The sender of one server; does nothing without a webhook URL. Several servers share the deliveries."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lease = timedelta(seconds=settings.webhook_timeout_seconds) + LEASE_SLACK
        self._give_up_after = timedelta(hours=settings.webhook_give_up_hours)
        self._salt = b""
        self._paused_until = 0.0  # time.monotonic(); set when the receiver asks for a pause
        self._running = ExitStack()

    def start(self) -> None:
        if not self._settings.webhook_url:
            return
        self._salt = load_secret(self._settings.data_dir)
        self._fill()  # before the thread starts, so that every vote this server stores is sent
        portal = self._running.enter_context(start_blocking_portal(name="webhook"))
        working = portal.start_task_soon(self._work)
        self._running.callback(working.cancel)

    def stop(self) -> None:
        """End the thread. Deliveries being sent are cancelled, and sent again after the next start."""
        self._running.close()

    async def _work(self) -> None:
        healthy = True
        while True:
            try:
                while await self._round():
                    pass
                healthy = True
            except Exception:
                # The database may be unavailable for a while; the vote events stay in it.
                if healthy:  # log an outage once, not every second
                    log.exception("Reading votes for the webhook failed; trying again.")
                healthy = False
            await asyncio.sleep(POLL_SECONDS)

    async def _round(self) -> bool:
        """Send a few due deliveries; False if there was nothing to do."""
        filled = await asyncio.to_thread(self._fill)
        if time.monotonic() < self._paused_until:
            return filled > 0
        claims = await asyncio.to_thread(self._claim)
        async with (
            httpx.AsyncClient(timeout=None, follow_redirects=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for claim in claims:
                group.create_task(self._deliver(client, claim))
        return filled > 0 or len(claims) > 0

    async def _deliver(self, client: httpx.AsyncClient, claim: Claim) -> None:
        answer = await self._send(client, claim)
        if answer.status in PLEASE_WAIT:
            self._paused_until = time.monotonic() + answer.retry_after
        try:
            await asyncio.to_thread(self._note, claim, answer)
        except Exception:  # the other deliveries must still be recorded
            log.exception("The outcome of delivery %s could not be stored; its lease will expire.", claim.id)

    async def _send(self, client: httpx.AsyncClient, claim: Claim) -> _Answer:
        body = json.dumps(
            {"type": claim.event, "timestamp": claim.happened_at.isoformat(), "data": claim.data}
        )
        moment = now()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Thumbloop",
            "webhook-id": claim.id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": Webhook(self._settings.webhook_secret).sign(claim.id, moment, body),
        }
        url, seconds = self._settings.webhook_url, self._settings.webhook_timeout_seconds
        try:
            # One limit for the entire exchange, however slow the answer. Its body is never read.
            async with (
                asyncio.timeout(seconds),
                client.stream("POST", url, content=body, headers=headers) as got,
            ):
                return _Answer(got.status_code, seconds_to_wait(got.headers.get("retry-after")))
        except TimeoutError:
            return _Answer(0, 0.0, f"There was no answer within {seconds:g} s.")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return _Answer(0, 0.0, f"{type(error).__name__}: {error}")

    def _fill(self) -> int:
        with self._database.write() as session:
            return webhook_outbox.fill_outbox(session, give_up_after=self._give_up_after)

    def _claim(self) -> list[Claim]:
        with self._database.write() as session:
            return webhook_outbox.claim_deliveries(session, limit=AT_ONCE, lease=self._lease, salt=self._salt)

    def _note(self, claim: Claim, answer: _Answer) -> None:
        with self._database.write() as session:
            if 200 <= answer.status < 300:
                webhook_outbox.note_delivered(session, claim)
                return
            pause = max(_backoff(claim.attempt), answer.retry_after)
            webhook_outbox.note_failure(
                session,
                claim,
                answer.error or f"The receiver answered {answer.status}.",
                retry_in=None if answer.status == GONE else timedelta(seconds=pause),
                give_up_after=self._give_up_after,
            )


def _backoff(attempt: int) -> float:
    """Seconds until the next attempt: doubled each time, with jitter."""
    longest = min(FIRST_RETRY_SECONDS * 2 ** min(attempt - 1, 30), LONGEST_RETRY_SECONDS)
    return random.uniform(longest / 2, longest)
