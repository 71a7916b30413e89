"""Which pattern matches which subject, as in the NATS server: a table that every transport must agree with."""

from typing import Final

DEEP: Final = ".".join(["d"] * 50)

MATCHES: Final[dict[str, tuple[list[str], list[str]]]] = {
    "orders": (["orders"], ["orders.created", "order"]),
    "orders.created": (["orders.created"], ["orders.changed", "orders", "Orders.created"]),
    "a.a": ([], ["a"]),
    "*": (["orders"], ["orders.created"]),
    "orders.*": (["orders.created", "orders.foo*"], ["orders", "orders.created.eu"]),
    "*.created": (["orders.created"], ["eu.orders.created"]),
    "orders.*.eu": (["orders.created.eu"], ["orders.created.us", "orders.eu"]),
    "*.*": (["orders.created"], ["orders.created.eu"]),
    "a.*.*.d": (["a.b.c.d"], []),
    ">": (["orders", "orders.created.eu", "$SYS.account"], []),
    "orders.>": (["orders.created", "orders.created.eu"], ["orders", "ordersx.created"]),
    "*.>": (["orders.created"], ["orders"]),
    "orders.*.>": (["orders.created.eu"], ["orders.created"]),
    "foo*": (["foo*"], ["foobar"]),
    "a.f*o.b": ([], ["a.fxo.b"]),
    "**": ([], ["orders"]),
    "foo>": (["foo>"], ["foo.bar"]),
    ">foo.bar": ([">foo.bar"], []),
    "Orders.*": (["Orders.Created"], []),
    "straße.über": (["straße.über"], []),
    "straße": ([], ["STRASSE"]),
    "caf\u00e9": (["caf\u00e9"], ["cafe\u0301"]),
    "\u6ce8\u6587.*": (["\u6ce8\u6587.\u5275\u5efa"], []),
    "a": ([], ["\u0430"]),
    "a\uff0eb": ([], ["a.b"]),
    "chat.\U0001f468": ([], ["chat.\U0001f468\u200d\U0001f469"]),
    "$SYS.account": (["$SYS.account"], []),
    "*.account": (["$SYS.account"], []),
    "$SYS.>": ([], ["SYS.account"]),
    "2013.1": ([], ["2013.01"]),
    "order-lines.*": (["order-lines.added-late"], []),
    "order-lines": ([], ["order_lines"]),
    "a/*": ([], ["a/b"]),
    "a.+": ([], ["a.b"]),
    "a?c": ([], ["abc"]),
    "[ab]": ([], ["a"]),
    "%": (["%"], ["x"]),
    "_": ([], ["x"]),
    "a\\.b": (["a\\.b"], []),
    'say"hi"': (['say"hi"'], []),
    "it's.*": (["it's.so"], []),
    DEEP: ([DEEP], []),
    "d.>": ([DEEP], []),
    ".".join(["*"] * 49): ([], [DEEP]),
}
"""Subjects that a pattern matches, and others that it does not."""

ROWS: Final = tuple(
    (pattern, subject, matches)
    for pattern, both in MATCHES.items()
    for matches, subjects in zip((True, False), both, strict=True)
    for subject in subjects
)
"""Pattern, subject, and whether it matches."""

NO_SUBJECT: Final = (
    "", ".", "orders..created", ".orders", "orders.", "orders created", "orders\tx", "orders\r\nx", "orders\0", "a\ud800",
    "orders.*", "orders.>", "*", ">", "x" * 1025,
)  # fmt: skip
"""Texts that are not subjects."""

NO_PATTERN: Final = ("", ".", "orders..created", "a.>.b", ">.>", "orders created", "orders\n")
"""Texts that are not patterns."""
