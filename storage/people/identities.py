"""Accounts of people who sign in at an identity provider."""

import hashlib
from dataclasses import dataclass

from sqlmodel import Session, select

from storage.db import audit
from storage.db.tables import Identity, User
from storage.people import tokens, users
from storage.settings.oidc import OidcProvider


@dataclass(frozen=True)
class Claims:
    """What a provider says of a person. `issuer` and `subject` together never change, unlike the rest."""

    issuer: str
    subject: str
    email: str = ""  # empty unless the provider has verified it
    groups: frozenset[str] = frozenset()


def account_of(session: Session, claims: Claims, name: str, provider: OidcProvider) -> User | None:
    """The account of this person, with the role that their groups give; None if they may not sign in.

    `name` is the provider's in the settings. At the first sign-in the account named by the verified e-mail
    address is linked, or a new one is made. Whoever has lost access is signed out everywhere. A disabled
    account stays disabled.
    """
    role = provider.role(claims.groups)
    query = select(Identity).where(Identity.issuer == claims.issuer, Identity.subject == claims.subject)
    identity = session.exec(query).first()
    if role is None:
        if identity is not None:
            tokens.end_all(session, identity.user_id)
            audit.record(session, identity.user_id, "lose access", identity.user_id, provider=name)
        return None
    if identity is not None:
        user = users.lock_user(session, identity.user_id)
    else:
        known = users.find_user(session, claims.email) if claims.email else None
        user = known or users.create_user(session, _new_name(session, claims, name), role=role or "user")
        session.add(Identity(issuer=claims.issuer, subject=claims.subject, user_id=user.id))
        audit.record(session, user.id, "link identity", user.id, provider=name)
    if user.disabled:
        return None
    if role and role != user.role:
        users.set_role(session, user.id, role)
        audit.record(session, user.id, "set role", user.id, role=role, provider=name)
    session.flush()
    return user


def _new_name(session: Session, claims: Claims, name: str) -> str:
    """A name that no account has: the verified address, else the provider's name with the subject."""
    told = claims.email or f"{name}:{claims.subject}"
    if len(told) <= users.LONGEST_NAME and told.isprintable() and users.find_user(session, told) is None:
        return told
    return f"{name}:{hashlib.sha256(f'{claims.issuer} {claims.subject}'.encode()).hexdigest()}"
