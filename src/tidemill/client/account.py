"""Calls about the caller's account: signing in, passwords, API keys, ssh keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tidemill.client.effects import SignIn, Steps
from tidemill.client.kinds import K, operation
from tidemill.client.modelled import Modelled, checked
from tidemill.model.account import Scope
from tidemill.wire.accounts import (
    ApiKeyCreateAnswer,
    ApiKeyCreateRequest,
    ApiKeyDeleteRequest,
    ApiKeyListAnswer,
    ApiKeyRow,
    EmptyRequest,
    LoginRequest,
    MeAnswer,
    PasswordRequest,
    SshKeyCreateAnswer,
    SshKeyCreateRequest,
    SshKeyDeleteRequest,
    SshKeyListAnswer,
    SshKeyRow,
    TokenAnswer,
)
from tidemill.wire.answers import Nothing


class Account(Modelled[K]):
    """``client.account``."""

    @operation
    def login(self, username: str, password: str) -> Steps[TokenAnswer]:
        """Sign in; this client uses the token from here on. Raises NotLoggedIn, TooManyRequests."""
        asked = LoginRequest(username=username, password=password)
        answer = yield from self._post("/api/user/login", TokenAnswer, asked, repeatable=True)
        yield SignIn(answer.accessToken)
        return answer

    @operation
    def logout(self) -> Steps[None]:
        """End every access token of the account, also those of other programs; API keys stay good."""
        yield from self._post("/api/user/logout", Nothing, EmptyRequest(), repeatable=True)
        yield SignIn(None)

    @operation
    def password(self, old: str, new: str) -> Steps[TokenAnswer]:
        """Change the password; every access token ends but the new one, which this client uses."""
        asked = PasswordRequest(oldPassword=old, newPassword=new)
        answer = yield from self._post("/api/user/password", TokenAnswer, asked, repeatable=False)
        yield SignIn(answer.accessToken)
        return answer

    @operation
    def me(self) -> Steps[MeAnswer]:
        """Whose account it is, and what the credential in use may do."""
        return (yield from self._get("/api/user/me", MeAnswer))

    @operation
    def create_api_key(
        self, name: str, *, scope: Scope | str = Scope.FULL, expires_at: datetime | None = None
    ) -> Steps[ApiKeyCreateAnswer]:
        """A new API key; its secret is in this answer and nowhere else. Raises Forbidden for an API key."""
        asked: dict[str, Any] = {"name": name, "scope": str(scope)}
        if expires_at is not None:
            asked["expiresAt"] = expires_at.isoformat()
        body = checked(ApiKeyCreateRequest, asked)
        return (yield from self._post("/api/user/apikey/create", ApiKeyCreateAnswer, body, repeatable=False))

    @operation
    def api_keys(self) -> Steps[list[ApiKeyRow]]:
        """The account's API keys, oldest first."""
        answer = yield from self._post(
            "/api/user/apikey/list", ApiKeyListAnswer, EmptyRequest(), repeatable=True
        )
        return answer.apiKeys

    @operation
    def delete_api_key(self, api_key_id: str) -> Steps[None]:
        """Make an API key worthless. Raises NotFound."""
        asked = ApiKeyDeleteRequest(apiKeyId=api_key_id)
        yield from self._post("/api/user/apikey/delete", Nothing, asked, repeatable=True)

    @operation
    def add_ssh_key(self, public_key: str, *, name: str | None = None) -> Steps[SshKeyRow]:
        """Add a public key, also to instances that run. Raises Conflict where it is there, BadRequest."""
        asked: dict[str, Any] = {"publicKey": public_key} | ({"name": name} if name is not None else {})
        body = checked(SshKeyCreateRequest, asked)
        answer = yield from self._post("/api/user/sshkey/create", SshKeyCreateAnswer, body, repeatable=False)
        return answer.sshKey

    @operation
    def ssh_keys(self) -> Steps[list[SshKeyRow]]:
        """The account's ssh keys, oldest first."""
        answer = yield from self._post(
            "/api/user/sshkey/list", SshKeyListAnswer, EmptyRequest(), repeatable=True
        )
        return answer.sshKeys

    @operation
    def delete_ssh_key(self, ssh_key_id: str) -> Steps[None]:
        """Remove a public key, also from instances that run. Raises NotFound."""
        asked = SshKeyDeleteRequest(sshKeyId=ssh_key_id)
        yield from self._post("/api/user/sshkey/delete", Nothing, asked, repeatable=True)
