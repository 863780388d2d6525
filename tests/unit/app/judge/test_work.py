"""Many jobs for several servers, one of which goes away."""

from pathlib import Path
from typing import Any

import pytest

from app.judge.journal import Journal
from app.judge.work import Job, do_jobs
from storage.errors import NotReady
from tests.support.scripted_models import REFUSED, Script, asked
from tests.support.threads import in_a_loop
from trainer.judge.servers import Server
from trainer.judge.specs import parse_server


def test_a_server_that_refuses_what_is_left_is_not_away(tmp_path: Path) -> None:
    """The next time nothing but the refused one may be left, and yet the server is not away."""
    away, left = {"other"}, []

    def faults(body: dict[str, Any], _attempt: int) -> str | None:
        return REFUSED if body["model"] in away or asked(body) == "refused" else None

    script = Script(dict.fromkeys(("one", "other"), lambda _: "Yes."), faults)

    async def run(url: str) -> dict[str, Any]:
        async with (
            Server(parse_server(f"one={url},one,at_once=1")) as one,
            Server(parse_server(f"other={url},other,at_once=1")) as other,
        ):

            def job(server: Server, text: str) -> Job:
                async def ask() -> dict[str, Any]:
                    return {"reply": (await server.ask([{"role": "user", "content": text}])).text}

                return Job(f"{server.spec.name} {text}", server, ask)

            jobs = [job(one, text) for text in ("fine", "refused")]
            jobs += [job(other, str(number)) for number in range(12)]
            with Journal(tmp_path / "result", {}) as journal:
                await do_jobs(jobs, journal, "replies", lambda state: left.append(state["seconds_left"]))
                return journal.answers

    with script.served() as url:
        with pytest.raises(NotReady, match="other gave no answer 10 times in a row"):
            in_a_loop(run(url))
        away.clear()
        left.clear()
        answers = in_a_loop(run(url))
    assert len(answers) == 14
    assert (left[0], left[-1]) == (None, 0), "nothing is said before the servers have answered"
    assert left[-2] > 0
    assert answers["one refused"] == {"error": "400: planted 400"}
