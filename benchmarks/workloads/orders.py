"""The body that W2 validates: three fields of three types."""

from pydantic import BaseModel, TypeAdapter


class Order(BaseModel):
    """What `harness.BODY` becomes."""

    id: int
    customer: str
    amount: float


validated = TypeAdapter(Order).validate_python
