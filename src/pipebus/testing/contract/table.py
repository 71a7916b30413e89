"""Which pattern matches which subject, as in the NATS server: a table that every transport must agree with."""

from __future__ import annotations

from typing import Final

DEEP: Final = ".".join(["d"] * 50)

ROWS: Final[tuple[tuple[str, str, bool], ...]] = (
    ("orders", "orders", True),
    ("orders", "orders.created", False),
    ("orders.created", "orders.created", True),
    ("orders.created", "orders.changed", False),
    ("orders.created", "orders", False),
    ("orders", "order", False),
    ("a.a", "a", False),
    ("*", "orders", True),
    ("*", "orders.created", False),
    ("orders.*", "orders.created", True),
    ("orders.*", "orders", False),
    ("orders.*", "orders.created.eu", False),
    ("*.created", "orders.created", True),
    ("*.created", "eu.orders.created", False),
    ("orders.*.eu", "orders.created.eu", True),
    ("orders.*.eu", "orders.created.us", False),
    ("orders.*.eu", "orders.eu", False),
    ("*.*", "orders.created", True),
    ("*.*", "orders.created.eu", False),
    ("a.*.*.d", "a.b.c.d", True),
    (">", "orders", True),
    (">", "orders.created.eu", True),
    ("orders.>", "orders.created", True),
    ("orders.>", "orders.created.eu", True),
    ("orders.>", "orders", False),
    ("orders.>", "ordersx.created", False),
    ("*.>", "orders.created", True),
    ("*.>", "orders", False),
    ("orders.*.>", "orders.created.eu", True),
    ("orders.*.>", "orders.created", False),
    ("foo*", "foo*", True),
    ("foo*", "foobar", False),
    ("a.f*o.b", "a.fxo.b", False),
    ("**", "orders", False),
    ("foo>", "foo>", True),
    ("foo>", "foo.bar", False),
    (">foo.bar", ">foo.bar", True),
    ("orders.*", "orders.foo*", True),
    ("orders.created", "Orders.created", False),
    ("Orders.*", "Orders.Created", True),
    ("straße.über", "straße.über", True),
    ("straße", "STRASSE", False),
    ("caf\u00e9", "caf\u00e9", True),
    ("caf\u00e9", "cafe\u0301", False),
    ("\u6ce8\u6587.*", "\u6ce8\u6587.\u5275\u5efa", True),
    ("a", "\u0430", False),
    ("a\uff0eb", "a.b", False),
    ("chat.\U0001f468", "chat.\U0001f468\u200d\U0001f469", False),
    ("$SYS.account", "$SYS.account", True),
    (">", "$SYS.account", True),
    ("*.account", "$SYS.account", True),
    ("$SYS.>", "SYS.account", False),
    ("2013.1", "2013.01", False),
    ("order-lines.*", "order-lines.added-late", True),
    ("order-lines", "order_lines", False),
    ("a/*", "a/b", False),
    ("a.+", "a.b", False),
    ("a?c", "abc", False),
    ("[ab]", "a", False),
    ("%", "%", True),
    ("%", "x", False),
    ("_", "x", False),
    ("a\\.b", "a\\.b", True),
    ('say"hi"', 'say"hi"', True),
    ("it's.*", "it's.so", True),
    (DEEP, DEEP, True),
    ("d.>", DEEP, True),
    (".".join(["*"] * 49), DEEP, False),
)
"""Pattern, subject, and whether it matches."""

NO_SUBJECT: Final = (
    "", ".", "orders..created", ".orders", "orders.", "orders created", "orders\tx", "orders\r\nx", "orders\0", "a\ud800",
    "orders.*", "orders.>", "*", ">", "x" * 1025,
)  # fmt: skip
"""Texts that are not subjects."""

NO_PATTERN: Final = ("", ".", "orders..created", "a.>.b", ">.>", "orders created", "orders\n")
"""Texts that are not patterns."""
