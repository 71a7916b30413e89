"""An operator, accounts and users of a nats-server that knows its users by JWT, made and signed here."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Final

import nkeys  # type: ignore[import-untyped]

UNLIMITED: Final = {
    "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1,
    "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
}  # fmt: skip
"""The limits of an account that may use JetStream."""


class Key:
    """
    Args:
        kind: One of the prefixes of nkeys.
    """

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind).decode()
        self._pair = nkeys.from_seed(self.seed.encode())
        self.public = self._pair.public_key.decode()

    def signs(self, subject: Key, name: str, said: dict[str, Any], **more: Any) -> str:
        """Return a JWT about the subject."""
        claims = {"iat": int(time.time()), "iss": self.public, "sub": subject.public, "name": name, **more}
        claims["nats"] = {"version": 2, **said}
        claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
        text = f"{_coded(_json({'typ': 'JWT', 'alg': 'ed25519-nkey'}))}.{_coded(_json(claims))}"
        return f"{text}.{_coded(self._pair.sign(text.encode()))}"


def _json(what: dict[str, Any]) -> bytes:
    return json.dumps(what).encode()


def _coded(what: bytes) -> str:
    return base64.urlsafe_b64encode(what).decode().rstrip("=")


class Authority:
    """An operator with an account for programs and one for the system."""

    def __init__(self) -> None:
        self.operator, self.account, self.system = (
            Key(kind) for kind in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT)
        )

    @property
    def config(self) -> str:
        """The lines for the server's configuration."""
        operator, account = self.operator, {"type": "account", "limits": UNLIMITED}
        known = {self.account.public: operator.signs(self.account, "programs", account)}
        none = {"type": "account", "limits": UNLIMITED | {"mem_storage": 0, "disk_storage": 0}}
        known[self.system.public] = operator.signs(self.system, "system", none)
        lines = [f"operator: {operator.signs(operator, 'tests', {'type': 'operator', 'system_account': self.system.public})}"]
        lines += [f"system_account: {self.system.public}", "resolver: MEMORY", "resolver_preload: {"]
        return "\n".join([*lines, *(f"  {name}: {jwt}" for name, jwt in known.items()), "}"])

    def user(self, name: str = "ann", **more: Any) -> tuple[str, str]:
        """The JWT and the seed of a user of the account."""
        key = Key(nkeys.PREFIX_BYTE_USER)
        said = {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        return self.account.signs(key, name, said, **more), key.seed


def write_creds(file: Path, jwt: str, seed: str) -> Path:
    """Write the file as the tools of NATS do."""
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return file
