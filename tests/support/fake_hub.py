"""A server on this machine that takes a data set as the Hugging Face hub does: small files inside the
commit, large ones through LFS. It checks what it is sent and keeps it in memory.
"""

import base64
import hashlib
import json
from contextlib import ExitStack
from typing import Any

from tests.support.http_stub import StubHandler, http_stub

# For a process that pushes to it: without Xet, the hub's newer way for large files, whose server cannot be
# had here.
HUB_SETTINGS = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class FakeHub:
    """`files` are those of the last commit, by path; `requests` are (method, path, body)."""

    def __init__(self, *, token: str) -> None:
        self.token = token
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self._blobs: dict[str, bytes] = {}
        hub = self

        class Handler(StubHandler):
            def do_POST(self) -> None:
                body = self.body()
                authorised = self.headers.get("Authorization") == f"Bearer {hub.token}"
                # The address of an upload is signed by itself, as S3's are.
                status, answer = 401, {"error": "Invalid credentials"}
                if authorised or self.path.startswith("/blob/"):
                    status, answer = hub.answer(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_PUT = do_POST

        self._closing = ExitStack()
        self.endpoint = self._closing.enter_context(http_stub(Handler))

    def close(self) -> None:
        self._closing.close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        path = path.split("?")[0]
        if path.startswith("/blob/"):
            digest = path.removeprefix("/blob/")
            assert hashlib.sha256(body).hexdigest() == digest
            self._blobs[digest] = body
            return 200, {}
        if path.endswith("/commit/main"):
            return self._commit(path, body)
        sent = json.loads(body)
        self.requests.append((method, path, sent))
        if path == "/api/repos/create":
            return 200, {"url": f"{self.endpoint}/datasets/{sent['organization']}/{sent['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": path, "uploadMode": modes[path.endswith(".parquet")], "shouldIgnore": False}
                for path in (file["path"] for file in sent["files"])
            ]
            return 200, {"files": files}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                file | {"actions": {"upload": {"href": f"{self.endpoint}/blob/{file['oid']}"}}}
                for file in sent["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        return 404, {"error": f"{method} {path} is not known here"}

    def _commit(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        lines = [json.loads(line) for line in body.splitlines()]
        self.requests.append(("POST", path, lines[0]))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                self.files[value["path"]] = self._blobs[value["oid"]]
            else:
                self.files[value["path"]] = base64.b64decode(value["content"])
        oid = "0" * 40
        return 200, {"commitOid": oid, "commitUrl": f"{self.endpoint}/datasets/me/feedback/commit/{oid}"}
