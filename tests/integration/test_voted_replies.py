"""Votes with their replies over the API and on the command line; who may use the page of them."""

from contextlib import closing

import httpx

from storage.chats.votes import count_votes
from storage.db.database import Database, open_database
from storage.people.tokens import create_token
from storage.people.users import ensure_user
from storage.registry import model_versions
from tests.support import http_loop
from tests.support.live_server import LiveServer, StartServer
from tests.support.programs import run_command
from tests.support.rest import refused
from tests.support.rows import add_person_with_reply, audit_events, vote_on

VOTES = "/api/v1/votes"
PAGE = "/admin/feedback"


def add_vote(store: Database, question: str) -> str:
    with store.write() as session:
        base = model_versions.deployed_version(session)
        details = {"version_id": base.id, "label": False, "tags": ["wrong"], "comment": "No."}
        _, _, reply = add_person_with_reply(session, question=question, answer="Paris.", **details)
        return vote_on(session, reply.id).id


def test_votes_are_listed_in_pages_read_excluded_and_rated(
    shared_server: LiveServer, client: httpx.Client, stranger: httpx.Client, store: Database
) -> None:
    older, newer = add_vote(store, "Capital of Spain?"), add_vote(store, "Capital of Italy?")
    first = http_loop.checked(client.get(VOTES, params={"search": "capital of", "limit": 1}))
    rest = http_loop.checked(
        client.get(VOTES, params={"search": "capital of", "cursor": first["next"], "label": "down"})
    )
    assert [one["id"] for one in first["items"] + rest["items"]] == [newer, older]
    assert rest["next"] is None
    assert http_loop.checked(client.put(f"{VOTES}/{newer}/review", json={"label": True}))["reviews"]
    found = http_loop.checked(client.get(f"{VOTES}/agreement"))
    assert found == {"ratings": 1, "agreed": 0, "kappa": 0.0}
    with store.read() as session:
        before = count_votes(session)
    body = {"vote_ids": [older, newer], "excluded": True, "reason": "off topic"}
    assert http_loop.checked(client.put(f"{VOTES}/exclusion", json=body)) == {"changed": 2}
    shown = http_loop.checked(client.get(f"{VOTES}/{newer}"))
    assert (shown["use"], shown["question"], shown["tags"]) == ("excluded", "Capital of Italy?", ["wrong"])
    assert [turn["content"] for turn in shown["messages"]] == ["Capital of Italy?", "Paris."]
    with store.read() as session:
        assert count_votes(session).down == before.down - 2
        read, *others = audit_events(session)
        assert (read.action, read.target) == ("read conversation", shown["chat_id"])
        assert [event.detail for event in others[:2]] == [{"reason": "off topic"}] * 2
    quarantine = {"vote_ids": [older, newer], "quarantined": True, "reason": "spam"}
    people = sorted(http_loop.checked(client.get(f"{VOTES}/{one}"))["user_id"] for one in (older, newer))
    unknown = {**quarantine, "user_ids": ["x"]}
    refused(client.put(f"{VOTES}/quarantine", json=unknown), 404)
    assert http_loop.checked(client.put(f"{VOTES}/quarantine", json=quarantine)) == {"changed": people}
    release = {"user_ids": people, "quarantined": False}
    assert http_loop.checked(client.put(f"{VOTES}/quarantine", json=release)) == {"changed": people}
    with store.read() as session:
        events = audit_events(session)[:4]
        assert [event.action for event in events] == ["release"] * 2 + ["quarantine"] * 2
    for verb, address, json in (
        ("GET", "", None),
        ("GET", "/agreement", None),
        ("GET", f"/{newer}", None),
        ("PUT", "/exclusion", body),
        ("PUT", "/quarantine", quarantine),
        ("PUT", f"/{newer}/review", {"label": True}),
    ):
        refused(stranger.request(verb, VOTES + address, json=json), 403, "admin_only")


def test_wrong_filters_and_ids_are_named(client: httpx.Client, store: Database) -> None:
    vote = add_vote(store, "q")
    refused(client.get(VOTES, params={"use": "never"}), 422)
    refused(client.get(VOTES, params={"on_policy": "true"}), 422, "unknown_parameter")
    refused(client.get(VOTES, params={"model_version": "v99"}), 404)
    refused(client.get(f"{VOTES}/{'0' * 26}"), 404)
    unknown = {"vote_ids": [vote, "x"], "excluded": True}
    assert refused(client.put(f"{VOTES}/exclusion", json=unknown), 404) == "There is no vote x."
    assert http_loop.checked(client.get(f"{VOTES}/{vote}"))["use"] == "counts"


def test_the_command_lists_shows_and_excludes(shared_server: LiveServer, store: Database) -> None:
    vote = add_vote(store, "Where is the tower?")

    def thumbloop(*words: str, check: bool = True) -> str:
        done = run_command("votes", *words, environment=shared_server.environment, check=check)
        return done.stdout + done.stderr

    said = thumbloop("list", "--filter", "search=TOWER")
    assert vote in said
    assert "Where is the tower?" in said
    assert "No vote matches." in thumbloop("list", "--filter", "search=steeple")
    assert "There is no filter 'colour'" in thumbloop("list", "--filter", "colour=red", check=False)
    assert vote in thumbloop("queue", "random", "--limit", "1000")
    assert "there are downs, contradictory" in thumbloop("queue", "newest", check=False)
    assert "1 excluded." in thumbloop("exclude", vote, "--reason", "off topic")
    said = thumbloop("show", vote)
    assert "[user] Where is the tower?" in said
    assert "training: excluded" in said
    assert "comment: No." in said
    assert "1 included again." in thumbloop("exclude", vote, "--undo")
    assert "1 person quarantined." in thumbloop("quarantine", vote, "--reason", "spam")
    assert "training: person quarantined" in thumbloop("show", vote)
    assert "1 person released." in thumbloop("quarantine", vote, "--undo")
    with store.write() as session:
        ensure_user(session, "rita", "admin")
    assert "'nobody' is no admin" in thumbloop("review", vote, "--as", "nobody", check=False)
    assert "1 rated." in thumbloop("review", vote, "--as", "rita", "--label", "down", "--note", "Wrong.")
    assert "0 rated." in thumbloop("review", vote, "--as", "rita", "--label", "up")
    assert "1 rated." in thumbloop("review", vote, "--as", "rita", "--correction", "Paris.")
    assert "Give --label" in thumbloop("review", vote, "--as", "rita", "--note", " ", check=False)
    assert "give it alone" in thumbloop(
        "review", vote, "--as", "rita", "--undo", "--label", "up", check=False
    )
    assert "1 taken back." in thumbloop("review", vote, "--as", "rita", "--undo")
    assert "There is no vote 7." in thumbloop("exclude", "7", check=False)


def test_the_command_votes_on_a_whole_chat(shared_server: LiveServer, store: Database) -> None:
    with store.write() as session:
        base = model_versions.deployed_version(session)
        chats = [
            add_person_with_reply(session, version_id=base.id, label=label)[1].id for label in (None, True)
        ]

    def voted(*words: str) -> str:
        done = run_command("votes", "chat", *words, environment=shared_server.environment, check=False)
        return done.stdout + done.stderr

    assert "up, shared by 1 reply." in voted(chats[0], "up")
    assert "up, shared by 1 reply." in voted(chats[0])
    assert "No vote on the whole chat." in voted(chats[0], "none")
    assert "Every reply of this chat has a vote of its own" in voted(chats[1], "down")
    assert "'better' is not a vote; say up, down or none." in voted(chats[0], "better")
    with store.read() as session:
        assert [event.action for event in audit_events(session)[:2]] == ["vote on chat"] * 2


def test_the_page_is_for_admins_and_names_what_is_wrong(shared_server: LiveServer, store: Database) -> None:
    tokens: dict[str, str] = {}
    with store.write() as session:
        for name, role in (("ada", "admin"), ("ben", "user")):
            person = ensure_user(session, name, role)
            tokens[name] = create_token(session, person.id, name="browser", kind="session")[1]

    def visit(name: str | None) -> httpx.Client:
        cookies = {"thumbloop_session": tokens[name]} if name else {}
        return shared_server.visit(cookies=cookies, headers={"Origin": shared_server.url})

    vote = add_vote(store, "On the page?")
    for name in ("ben", None):
        with visit(name) as http:
            assert http.get(PAGE).status_code == 403
            for deed, form in (
                ("exclusion", {"vote_id": vote, "excluded": "true"}),
                ("review", {"vote_id": vote, "label": "up"}),
                ("quarantine", {"user_id": vote, "quarantined": "true"}),
            ):
                assert http.post(f"{PAGE}/{deed}", data=form).status_code == 403
    with visit("ada") as http:
        page = http.get(PAGE, params={"search": "on the page", "vote": vote})
        assert page.status_code == 200
        assert page.text.count("On the page?") == 3  # its box, its line, the conversation
        for query, status, said in (
            ({"model_version": "v99"}, 404, "v99"),
            ({"from_date": "then"}, 422, "from_date"),
            ({"vote": "x"}, 404, "There is no vote x."),
        ):
            answer = http.get(PAGE, params=query)
            assert answer.status_code == status
            assert said in answer.text
        nothing = http.post(f"{PAGE}/exclusion", data={"excluded": "true"})
        assert (nothing.status_code, "Choose a vote first." in nothing.text) == (422, True)
        assert http.get("/admin/files/page.html").status_code == 404


def test_what_is_disliked_is_grouped_by_its_words(start_server: StartServer) -> None:
    server = start_server()
    with closing(open_database(server.settings)) as database, database.write() as session:
        version = model_versions.deployed_version(session)
        for number in range(12):
            for topic, comment in (("river", "much too long"), ("recipe", "wrong spices")):
                question = f"Tell me of the {topic} number {number}"
                add_person_with_reply(
                    session, version_id=version.id, question=question, comment=comment, label=False
                )
    with server.client() as client:
        themes = http_loop.checked(client.get("/api/v1/votes/themes"))
        assert themes["votes"] == sum(theme["votes"] for theme in themes["items"]) == 24
        for theme in themes["items"]:
            topics = {"river" in example["question"] for example in theme["examples"]}
            assert len(topics) == 1
    with server.visit() as browser:
        browser.get(server.admin_link())
        page = browser.get("/admin/feedback/themes").text
        assert all(theme["examples"][0]["question"] in page for theme in themes["items"])
