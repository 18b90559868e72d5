"""Login, passwords, API keys and ssh keys on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field

from tidemill.model.account import ApiKey, Caller, Scope, SshKey
from tidemill.wire.answers import Answer
from tidemill.wire.fields import Choice, Instant, Request, Text

PASSWORD_LEAST = 8
PASSWORD_MOST = 1024


class LoginRequest(Request):
    """Body of POST /api/user/login."""

    username: Annotated[str, Text(most=255)]
    password: Annotated[str, Text(most=PASSWORD_MOST)] = Field(repr=False)


class PasswordRequest(Request):
    """Body of POST /api/user/password."""

    oldPassword: Annotated[str, Text(most=PASSWORD_MOST)] = Field(repr=False)
    newPassword: Annotated[str, Text(least=PASSWORD_LEAST, most=PASSWORD_MOST)] = Field(repr=False)


class EmptyRequest(Request):
    """A body without fields of its own; may be left out."""


class TokenAnswer(Answer):
    """A new access token and the seconds that it is good."""

    accessToken: str = Field(repr=False)
    accessExpire: int


class MeAnswer(Answer):
    """The caller's own account, and what the credential in use is good for.

    ``scope`` is what it may do; ``instanceId`` the one instance that it reaches, whose key it is (in no
    group then); ``apiKeyId`` the API key that it is; ``expiresAt`` when it ends by itself.
    """

    userId: str
    username: str
    group: list[str]
    createdAt: datetime
    scope: Scope
    instanceId: str | None = None
    apiKeyId: str | None = None
    expiresAt: datetime | None = None

    @classmethod
    def of(cls, caller: Caller) -> MeAnswer:
        user = caller.user
        return cls(
            userId=user.id,
            username=user.username,
            group=[] if caller.instance_id is not None else list(user.groups),
            createdAt=user.created_at,
            scope=caller.scope,
            instanceId=caller.instance_id,
            apiKeyId=caller.api_key_id,
            expiresAt=caller.expires_at,
        )


class ApiKeyCreateRequest(Request):
    """Body of POST /api/user/apikey/create."""

    name: Annotated[str, Text(least=1, most=255, one_line=True)]
    expiresAt: Annotated[datetime | None, Instant()] = Field(None, description="left out: never")
    scope: Annotated[str, Choice((Scope.FULL.value, Scope.READ.value))] = Scope.FULL.value


class ApiKeyDeleteRequest(Request):
    """Body of POST /api/user/apikey/delete."""

    apiKeyId: Annotated[str, Text()]


class ApiKeyRow(Answer):
    """An API key without its secret; ``hint`` is how the secret begins."""

    id: str
    name: str
    hint: str
    scope: Scope
    createdAt: datetime
    expiresAt: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> ApiKeyRow:
        return cls(
            id=key.id,
            name=key.name,
            hint=key.hint,
            scope=key.scope,
            createdAt=key.created_at,
            expiresAt=key.expires_at,
        )


class ApiKeyCreateAnswer(Answer):
    """A new API key; ``key`` is its secret, shown this once."""

    apiKey: ApiKeyRow
    key: str = Field(repr=False)


class ApiKeyListAnswer(Answer):
    """The account's API keys, oldest first."""

    apiKeys: list[ApiKeyRow]

    @classmethod
    def of(cls, keys: Sequence[ApiKey]) -> ApiKeyListAnswer:
        return cls(apiKeys=[ApiKeyRow.of(key) for key in keys])


class SshKeyCreateRequest(Request):
    """Body of POST /api/user/sshkey/create."""

    name: Annotated[str | None, Text(least=1, most=255, one_line=True)] = Field(
        None, description="left out: the key's comment"
    )
    publicKey: Annotated[str, Text()] = Field(description="one line as in a file that ends in .pub")


class SshKeyDeleteRequest(Request):
    """Body of POST /api/user/sshkey/delete."""

    sshKeyId: Annotated[str, Text()]


class SshKeyRow(Answer):
    """An ssh key; ``fingerprint`` as ``ssh-keygen -l`` shows it."""

    id: str
    name: str
    publicKey: str
    fingerprint: str
    createdAt: datetime

    @classmethod
    def of(cls, key: SshKey) -> SshKeyRow:
        return cls(
            id=key.id,
            name=key.name,
            publicKey=key.public_key,
            fingerprint=key.fingerprint,
            createdAt=key.created_at,
        )


class SshKeyCreateAnswer(Answer):
    """The key that was added."""

    sshKey: SshKeyRow


class SshKeyListAnswer(Answer):
    """The account's ssh keys, oldest first."""

    sshKeys: list[SshKeyRow]

    @classmethod
    def of(cls, keys: Sequence[SshKey]) -> SshKeyListAnswer:
        return cls(sshKeys=[SshKeyRow.of(key) for key in keys])
