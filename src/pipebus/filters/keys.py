"""What filters share that treat messages by a key: the setting `key`, and the key of a message."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from pipebus.errors import ContractError, PipelineError, Rejected
from pipebus.foreign.objects import json_type, plain_text, shown, text_of
from pipebus.message.message import Message
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished

Key = Callable[[Message[Any]], Hashable]


def check_key(key: Any, what: str, otherwise: str) -> None:
    """
    Check the setting `key`.

    Args:
        what: The setting, as in "Dedupe.key".
        otherwise: What happens without it, for the error, as in "to use the message's id".

    Raises:
        PipelineError: it is not a plain function.
    """
    if key is not None and (not callable(key) or not is_plain(key)):
        raise PipelineError(
            f"{what}={shown(key)}: it is a plain function of the message that returns something hashable; "
            f"leave it out {otherwise}"
        )


def key_of(message: Message[Any], function: Key, what: str, cannot: str, none: str) -> Hashable:
    """
    The key of a message, by a function of the user's.

    Args:
        what: The setting, as in "Dedupe.key".
        cannot: What the filter cannot do without a key, as in "recognise duplicates".
        none: What a message without a key is, as in "one that has no duplicates".

    Raises:
        ContractError: the function failed, or its result is not hashable. A `Rejected` that it raises passes.
    """
    key: Hashable = None
    try:
        key = plain_text(finished(function(message)))
        hash(key)
    except (Rejected, ContractError):
        raise
    except Exception as error:
        found = f"returned {json_type(key)}" if isinstance(key, (list, dict)) else f"failed with {text_of(error)}"
        raise ContractError(
            f"cannot {cannot}: {what} {found}; make it return text, a number or another hashable value for each message, "
            f"or None for {none}"
        ) from error
    return ("bool", int(key)) if isinstance(key, bool) else key  # in JSON, true is not 1
