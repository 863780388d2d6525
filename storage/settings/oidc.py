"""What `THUMBLOOP_OIDC` says of an identity provider."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from storage.settings.validators import Address, matching

ProviderName = Annotated[str, matching("[a-z0-9-]{1,30}", "name a provider in small letters, digits and -")]


def _given(value: str) -> str:
    if not value:
        raise ValueError("this is missing")
    return value


class OidcProvider(BaseModel):
    """An OpenID Connect provider that people sign in with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[Address, AfterValidator(_given)]
    client_id: Annotated[str, AfterValidator(_given)]
    client_secret: str = ""
    label: str = ""  # on the button; empty: the name
    scope: str = "openid email profile"
    groups_claim: str = "groups"
    # Groups whose members are admins (if there are any, nobody else is), and groups whose members may sign in
    # besides admins (if there are none, everybody may).
    admins: list[str] = Field(default_factory=list)
    users: list[str] = Field(default_factory=list)

    def role(self, groups: frozenset[str]) -> str | None:
        """The role that these groups give; empty if they give none, None if the person may not sign in."""
        if groups & set(self.admins):
            return "admin"
        if self.users and not groups & set(self.users):
            return None
        return "user" if self.admins else ""
