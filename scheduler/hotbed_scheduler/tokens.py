"""Bearer tokens for TCP listeners: one for clients, one for nodes, kept as hashes only.

The plain token is returned once, when it is minted. The file holds sha256 sums: a token has 256 random bits, so a slow
password hash would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal

from hotbed_proto.errors import AuthError, InvalidError, PermissionDeniedError

Role = Literal["client", "node"]
ROLES: tuple[Role, ...] = ("client", "node")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class TokenFile:
    """Hashed tokens in one JSON file of mode 0600; every role may have several (so that they can be rotated)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hashes: dict[str, list[str]] = {role: [] for role in ROLES}
        self._version = (0, 0)
        self._load()

    def _load(self) -> None:
        """Read the file if it changed: `hotbed server token` writes it while the server runs."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return
        version = (found.st_mtime_ns, found.st_ino)
        if version == self._version:
            return
        try:
            stored = json.loads(self._path.read_text())
            hashes = {role: [str(h) for h in stored.get(role, [])] for role in ROLES}
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidError(
                f"the token file {self._path} cannot be read", why=str(error), fix="remove it; new tokens are made"
            ) from error
        self._hashes, self._version = dict(hashes), version

    def mint(self, role: Role) -> str:
        """A new token of this role; from now on it is accepted. Only its hash is kept."""
        token = f"hb{role[0]}-{secrets.token_urlsafe(32)}"
        self.add(role, token)
        return token

    def add(self, role: Role, token: str) -> None:
        """Accept a token chosen elsewhere.

        Raises:
            InvalidError: Shorter than 16 characters.
        """
        if len(token) < 16:
            raise InvalidError(f"a {role} token needs at least 16 characters", fix="let hotbed make one")
        self._load()
        if (digest := _digest(token)) not in self._hashes[role]:
            self._hashes[role].append(digest)
            self._save()

    def check(self, authorization: str | None, role: Role) -> None:
        """Accept "Bearer <token>" of this role; constant time in the token.

        Raises:
            AuthError: No token or an unknown one.
            PermissionDeniedError: A known token of another role.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthError("this address needs a token", fix=f"send 'authorization: Bearer <{role} token>'")
        self._load()
        digest = _digest(token.strip())
        known = {r: sum(hmac.compare_digest(digest, h) for h in hashes) > 0 for r, hashes in self._hashes.items()}
        if known[role]:
            return
        if any(known.values()):
            raise PermissionDeniedError(f"this token is not a {role} token")
        raise AuthError("the token is not known to this server", fix="ask whoever runs the server for a current one")

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".tokens-")  # mkstemp makes it 0600
        with os.fdopen(fd, "w") as file:
            json.dump(self._hashes, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
