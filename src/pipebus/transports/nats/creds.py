"""A file of credentials, as `nsc` writes it: a JWT that says who the user is, and the seed of the key that proves it."""

from __future__ import annotations

import re
from typing import Final

from nats.aio.client import RawCredentials

from pipebus.errors import TransportError

_BLOCK: Final = re.compile(r"^-{3,} *BEGIN ([A-Z ]+?) *-{3,}\s*(\S+)\s*^-{3,} *END [A-Z ]+? *-{3,}", re.MULTILINE)
JWT: Final = "NATS USER JWT"
SEED: Final = "USER NKEY SEED"
REMEDY: Final = "write it anew with nsc generate creds"


def read(path: str) -> RawCredentials:
    """
    The file, with what the client looks for in it: it would look for ever.

    Raises:
        TransportError: the file, and what is wrong with it; nothing of what is in it.
    """

    def bad(text: str) -> TransportError:
        return TransportError(f"creds={path} {text}")

    try:
        import nkeys  # type: ignore[import-untyped]
    except ImportError as error:
        raise bad(f'needs a package: pip install "nats-py[nkeys]" ({error})') from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise bad(f"is no file of credentials; {REMEDY}") from None
    found = dict(_BLOCK.findall(text))
    for name in (JWT, SEED):
        if name not in found:
            raise bad(f'has no block "{name}"; {REMEDY}')
    if found[JWT].count(".") != 2:
        raise bad(f"has a JWT that is none; {REMEDY}")
    try:
        if not found[SEED].startswith("SU"):
            raise ValueError
        nkeys.from_seed(found[SEED].encode()).wipe()
    except Exception:  # of many kinds
        raise bad(f"has a seed that is none of a user; {REMEDY}") from None
    return RawCredentials("".join(f"-----BEGIN {name}-----\n{found[name]}\n------END {name}------\n\n" for name in (JWT, SEED)))
