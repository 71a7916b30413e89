"""What `pipebus.toml` next to this file cannot say by itself: a signature, three shapes, and what is done with them."""

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field

from pipebus import Message, Rejected, Transform

Amount = Annotated[int, Field(gt=0)]  # cents


class Payment(BaseModel):
    id: str
    kind: str
    customer: str
    amount: Amount


class Refund(Payment):
    payment: str  # the id of what is given back


class Signup(BaseModel):
    id: str
    kind: str
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]


def sign(body: Any, secret: str) -> str:
    """HMAC-SHA256 over the body's JSON, with sorted keys and no spaces."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


@dataclass(eq=False)
class Signature(Transform):
    """Refuse what was not signed with the secret that we share with the sender."""

    secret: str

    def transform(self, message: Message[Any], /) -> Message[Any]:
        if not hmac.compare_digest(message.headers.get("signature", ""), sign(message.body, self.secret)):
            raise Rejected("the signature is wrong")
        return message


balance: dict[str, int] = {}  # cents, by customer


def book(payment: Payment) -> None:
    balance[payment.customer] = balance.get(payment.customer, 0) + payment.amount


def give_back(refund: Refund) -> None:
    if refund.amount > balance.get(refund.customer, 0):
        raise ValueError(f"{refund.customer} cannot get back more than was paid; ask a person")
    balance[refund.customer] -= refund.amount


def welcome(signup: Signup) -> dict[str, str]:
    """What it returns is published to `mails.out`."""
    return {"to": signup.email, "text": "welcome"}
