"""An OpenID Connect provider: `python -m tests.support.oidc_provider PORT`. It signs everybody in at once.

POST /plan says what the next ID token holds, and what is wrong with it.
"""

import base64
import hashlib
import json
import secrets
import sys
import time
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT, SECRET = "thumbloop", "a secret of the client"


class Provider:
    """Has one client, and remembers codes until they are redeemed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.key, self.other_key = (RSAKey.generate_key(2048, auto_kid=True) for _ in range(2))
        self.codes: dict[str, dict[str, str]] = {}
        self.plan: dict[str, Any] = {}

    async def describe(self, _: Request) -> Response:
        paths = ("authorization", "token", "userinfo", "end_session")
        return JSONResponse(
            {f"{name}_endpoint": f"{self.address}/{name}" for name in paths}
            | {"issuer": self.plan.get("issuer", self.address), "jwks_uri": f"{self.address}/keys"}
            | {"id_token_signing_alg_values_supported": ["RS256", "HS256", "none"]}
        )

    async def keys(self, _: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def set_plan(self, request: Request) -> Response:
        self.plan = await request.json()
        return Response(status_code=204)

    async def authorization(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert (asked["client_id"], asked["response_type"]) == (CLIENT, "code")
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        back = {"state": asked["state"]}
        if self.plan.get("denied"):
            back |= {"error": "access_denied"}
        else:
            back |= {"code": secrets.token_urlsafe()}
            self.codes[back["code"]] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}")

    async def token(self, request: Request) -> Response:
        form = await request.form()
        asked = self.codes.pop(str(form["code"]), None)
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        known = request.headers.get("authorization") == f"Basic {basic}"
        if asked is None or not known or challenge != asked["code_challenge"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if asked["redirect_uri"] != form["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        answer = {
            "access_token": "of-no-use",
            "token_type": "Bearer",
            "id_token": self.id_token(asked["nonce"]),
        }
        return JSONResponse(answer)

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.address,
            "aud": CLIENT,
            "sub": "4711",
            "nonce": nonce,
            "iat": now,
            "exp": now + 300,
        }
        claims |= self.plan.get("claims", {})
        wrong = self.plan.get("signed", "")
        if wrong == "not":
            parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
            return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])
        key = self.other_key if wrong == "by another key" else self.key
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, key)

    async def userinfo(self, _: Request) -> Response:
        subject = self.plan.get("claims", {}).get("sub", "4711")
        return JSONResponse({"sub": subject} | self.plan.get("userinfo", {}))


def application(address: str) -> Starlette:
    provider = Provider(address)
    return Starlette(
        routes=[
            Route("/.well-known/openid-configuration", provider.describe),
            Route("/keys", provider.keys),
            Route("/plan", provider.set_plan, methods=["POST"]),
            Route("/authorization", provider.authorization),
            Route("/token", provider.token, methods=["POST"]),
            Route("/userinfo", provider.userinfo),
        ]
    )


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(application(f"http://127.0.0.1:{port}"), port=port, log_level="warning")
