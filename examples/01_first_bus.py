"""
A first bus: one handler, one mailbox that you read yourself, three messages.

    python examples/01_first_bus.py
"""

from dataclasses import dataclass

from pipebus import Bus, Message, Subject


@dataclass(frozen=True)
class Order:
    id: int
    item: str
    price: float


created = Subject[Order]("orders.created")  # a name, together with the type of what is sent under it
bus = Bus()  # in memory


@bus.on(created, name="billing")
def bill(order: Order) -> None:
    """A handler: runs on a worker thread, and is given what its annotations ask for."""
    print(f"billing: {order.price:.2f} for {order.item}")


shipping = bus.subscribe(Subject[Order]("orders.*"), name="shipping")  # no handler: the program reads its messages


def main() -> None:
    parcels: list[Message[Order]] = []
    with bus:
        bus.publish(created, Order(1, "tea", 4.20))
        heard = bus.publish(created, Order(2, "honey", 7.50))
        unheard = bus.publish("orders.created.twice", "anybody?")  # "*" is exactly one token: nobody listens
        while len(parcels) < 2:
            parcels.append(shipping.receive(timeout=1.0))
    # Leaving the block drained the bus: whatever was accepted has been handled, and nothing runs any more.

    for parcel in parcels:
        print(f"shipping: {parcel.body.item}, from {parcel.subject}")
    print(f"the second order: {heard}")
    print(f"the third message: {unheard}")
    for name, figures in sorted(bus.stats()["subscriptions"].items()):
        print(f"{name} accepted {figures['accepted']} and acknowledged {figures['acknowledged']}")


if __name__ == "__main__":
    main()
