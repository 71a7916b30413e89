"""
Which pattern matches which subject: one table for all that match subjects.

The rules are those of the NATS server. `ROWS` are lawful patterns and subjects with the answer; `NO_PATTERN` and `NO_SUBJECT`
are texts that must be refused, with what the error says. A transport's contract reads the same tables.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Row(NamedTuple):
    """
    One question and its answer.

    Args:
        pattern: What is subscribed to.
        subject: What is published to.
        matches: The answer.
        why: The rule that gives it; the row's id in test reports.
    """

    pattern: str
    subject: str
    matches: bool
    why: str


class Refused(NamedTuple):
    """
    A text that is not a valid pattern or subject.

    Args:
        text: The text.
        says: The whole error text.
        why: What is wrong with it.
    """

    text: str
    says: str
    why: str


COMPOSED: Final = "caf\u00e9"  # é as one code point
DECOMPOSED: Final = "cafe\u0301"  # e, then the combining acute accent
FAMILY: Final = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # three people joined by zero-width joiners
LONGEST: Final = "x" * 1024
DEEP: Final = ".".join(["d"] * 200)

ROWS: Final = (
    # literal subjects
    Row("orders", "orders", True, "one token equals itself"),
    Row("orders", "invoices", False, "one token equals no other"),
    Row("orders.created", "orders.created", True, "two tokens equal themselves"),
    Row("orders.created", "orders.changed", False, "the last token differs"),
    Row("orders.created", "invoices.created", False, "the first token differs"),
    Row("orders.created", "created.orders", False, "order of tokens matters"),
    Row("orders", "orders.created", False, "a literal is no prefix"),
    Row("orders.created", "orders", False, "a subject may not be shorter"),
    Row("orders", "order", False, "a token is no prefix of a token"),
    Row("order", "orders", False, "a token is not cut short"),
    Row("a.a", "a", False, "equal tokens do not fold"),
    Row("a.a", "a.a.a", False, "equal tokens do not repeat"),
    Row("a", "a", True, "a token of one character"),
    # one star is one token
    Row("*", "orders", True, "star alone is any single token"),
    Row("*", "orders.created", False, "star alone is not two tokens"),
    Row("orders.*", "orders.created", True, "star at the end"),
    Row("orders.*", "orders", False, "star is not zero tokens"),
    Row("orders.*", "orders.created.eu", False, "star at the end is not two tokens"),
    Row("orders.*", "invoices.created", False, "star after another token"),
    Row("*.created", "orders.created", True, "star at the start"),
    Row("*.created", "created", False, "star at the start is not zero tokens"),
    Row("*.created", "eu.orders.created", False, "star at the start is not two tokens"),
    Row("*.created", "orders.changed", False, "what follows a star must match"),
    Row("orders.*.eu", "orders.created.eu", True, "star in the middle"),
    Row("orders.*.eu", "orders.created.us", False, "what follows a star in the middle must match"),
    Row("orders.*.eu", "orders.eu", False, "star in the middle is not zero tokens"),
    Row("orders.*.eu", "orders.a.b.eu", False, "star in the middle is not two tokens"),
    Row("*.*", "orders.created", True, "two stars are two tokens"),
    Row("*.*", "orders", False, "two stars are not one token"),
    Row("*.*", "orders.created.eu", False, "two stars are not three tokens"),
    Row("*.*", "a.a", True, "two stars may be equal tokens"),
    Row("a.*.*.d", "a.b.c.d", True, "two stars in a row in the middle"),
    Row("a.*.*.d", "a.b.d", False, "two stars in a row are not one token"),
    Row("*.b.*", "a.b.c", True, "a literal between stars"),
    Row("*.b.*", "a.c.b", False, "a literal between stars must match in its place"),
    # one greater-than is one or more tokens at the end
    Row(">", "orders", True, "greater-than alone is one token"),
    Row(">", "orders.created.eu", True, "greater-than alone is many tokens"),
    Row("orders.>", "orders.created", True, "greater-than is one trailing token"),
    Row("orders.>", "orders.created.eu.today", True, "greater-than is many trailing tokens"),
    Row("orders.>", "orders", False, "greater-than is not zero tokens"),
    Row("orders.>", "invoices.created", False, "what stands before greater-than must match"),
    Row("orders.>", "ordersx.created", False, "what stands before greater-than is a whole token"),
    Row("orders.created.>", "orders.created", False, "greater-than is not zero tokens, deeper"),
    Row("orders.created.>", "orders.created.eu", True, "greater-than after two tokens"),
    Row("orders.created.>", "orders.changed.eu", False, "the token before greater-than must match"),
    # both
    Row("*.>", "orders.created", True, "star then greater-than takes two tokens"),
    Row("*.>", "orders", False, "star then greater-than is not one token"),
    Row("*.>", "a.b.c.d", True, "star then greater-than takes many tokens"),
    Row("orders.*.>", "orders.created.eu", True, "literal, star, greater-than"),
    Row("orders.*.>", "orders.created", False, "literal, star, greater-than needs three tokens"),
    Row("*.created.>", "orders.created.eu", True, "star, literal, greater-than"),
    Row("*.created.>", "orders.changed.eu", False, "star, literal, greater-than: the literal must match"),
    # wildcards inside a longer token are letters like any other
    Row("foo*", "foo*", True, "a star inside a token is itself"),
    Row("foo*", "foobar", False, "a star inside a token is no wildcard"),
    Row("foo*", "foo", False, "a star inside a token is not nothing"),
    Row("*foo.bar", "xfoo.bar", False, "a star before letters is no wildcard"),
    Row("a.f*o.b", "a.fxo.b", False, "a star between letters is no wildcard"),
    Row("**", "orders", False, "two stars in one token are no wildcard"),
    Row("**", "**", True, "two stars in one token are themselves"),
    Row("foo>", "foo>", True, "a greater-than inside a token is itself"),
    Row("foo>", "foo.bar", False, "a greater-than after letters is no wildcard"),
    Row(">foo.bar", "x.bar", False, "a greater-than before letters is no wildcard"),
    Row(">>", "orders.created", False, "two greater-thans in one token are no wildcard"),
    Row("*>", "orders.created", False, "star and greater-than in one token are no wildcard"),
    Row(">foo.bar", ">foo.bar", True, "a greater-than before letters need not be last"),
    Row("orders.*", "orders.foo*", True, "star takes a token that holds a star"),
    Row("orders.>", "orders.>>", True, "greater-than takes a token that holds one"),
    # case
    Row("orders.created", "Orders.created", False, "case of the first letter matters"),
    Row("orders.created", "ORDERS.CREATED", False, "case matters"),
    Row("Orders.*", "Orders.Created", True, "upper case equals itself"),
    Row("stra\u00dfe", "STRASSE", False, "no full case folding"),
    Row("i", "\u0130", False, "no Turkish case folding"),
    # letters of the world, by code point
    Row("stra\u00dfe.\u00fcber", "stra\u00dfe.\u00fcber", True, "umlauts equal themselves"),
    Row(COMPOSED, COMPOSED, True, "a composed letter equals itself"),
    Row(COMPOSED, DECOMPOSED, False, "a composed letter is not the decomposed one"),
    Row(DECOMPOSED, DECOMPOSED, True, "a combining character equals itself"),
    Row("cafe", DECOMPOSED, False, "a combining character is not ignored"),
    Row(f"{COMPOSED}.*", f"{COMPOSED}.\u0301", True, "star takes a lone combining character"),
    Row("\u6ce8\u6587.*", "\u6ce8\u6587.\u5275\u5efa", True, "Chinese under a star"),
    Row(
        "\u0437\u0430\u043a\u0430\u0437.>",
        "\u0437\u0430\u043a\u0430\u0437.\u043d\u043e\u0432\u044b\u0439.\u0435\u0441",
        True,
        "Cyrillic under a greater-than",
    ),
    Row("a", "\u0430", False, "Cyrillic a is not Latin a"),
    Row("k", "\u212a", False, "the Kelvin sign is not k"),
    Row("fi", "\ufb01", False, "the ligature fi is not f and i"),
    Row("1", "\uff11", False, "a full-width digit is not a digit"),
    Row(
        "\u0645\u0631\u062d\u0628\u0627.*",
        "\u0645\u0631\u062d\u0628\u0627.\u05e9\u05dc\u05d5\u05dd",
        True,
        "right-to-left letters",
    ),
    Row(f"chat.{FAMILY}", f"chat.{FAMILY}", True, "an emoji of several code points"),
    Row("chat.\U0001f468", f"chat.{FAMILY}", False, "an emoji is no prefix of an emoji"),
    Row("\uff0a", "orders", False, "a full-width star is no wildcard"),
    Row("orders.\uff1e", "orders.created", False, "a full-width greater-than is no wildcard"),
    Row("a\uff0eb", "a.b", False, "a full-width full stop is no separator"),
    Row("*", "a\uff0eb", True, "a full-width full stop is a letter"),
    # dollar, digits and marks
    Row("$SYS.account", "$SYS.account", True, "a dollar is a letter"),
    Row(">", "$SYS.account.connect", True, "greater-than hides no dollar subjects"),
    Row("*.account", "$SYS.account", True, "star hides no dollar subjects"),
    Row("$SYS.>", "SYS.account", False, "the dollar is not ignored"),
    Row("$JS.API.>", "$JS.API.STREAM.INFO", True, "dollar then greater-than"),
    Row("flights.*.*", "flights.EWR.9E", True, "digits in a token"),
    Row("2013.01.*", "2013.01.31", True, "tokens of digits"),
    Row("2013.1", "2013.01", False, "digits are no numbers: a leading zero counts"),
    Row("1.0", "1", False, "digits are no numbers: point zero counts"),
    Row("order-lines.*", "order-lines.added-late", True, "dashes"),
    Row("order-lines", "order_lines", False, "a dash is no underscore"),
    Row("order_lines.>", "order_lines.x.y", True, "underscores"),
    Row("-", "-", True, "a lone dash"),
    Row("orders.*", "orders.*x", True, "star takes a token that begins with a star"),
    Row("a/b", "a/b", True, "a slash is a letter"),
    Row("a/*", "a/b", False, "a slash is no separator"),
    Row("a:b", "a:b", True, "a colon is a letter"),
    Row("a#", "a", False, "a number sign is no wildcard"),
    Row("a.+", "a.b", False, "a plus is no wildcard"),
    Row("a?c", "abc", False, "a question mark is no wildcard"),
    Row("[ab]", "a", False, "brackets are no wildcard"),
    Row("%", "%", True, "a percent sign is a letter"),
    Row("a\\.b", "a\\.b", True, "a backslash escapes nothing"),
    Row("user@example", "user@example", True, "an at sign is a letter"),
    Row('say"hi"', 'say"hi"', True, "quotes are letters"),
    # length and depth
    Row(LONGEST, LONGEST, True, "the longest token"),
    Row("*", LONGEST, True, "star takes the longest token"),
    Row(LONGEST[:-1], LONGEST, False, "the longest token is compared to its end"),
    Row(DEEP, DEEP, True, "two hundred tokens"),
    Row(".".join(["*"] * 200), DEEP, True, "two hundred stars"),
    Row(".".join(["*"] * 199), DEEP, False, "one star too few"),
    Row(".".join(["*"] * 201), DEEP, False, "one star too many"),
    Row("d.>", DEEP, True, "greater-than takes 199 tokens"),
    Row(".".join(["*"] * 199) + ".>", DEEP, True, "199 stars and a greater-than"),
    Row(".".join(["*"] * 200) + ".>", DEEP, False, "200 stars and a greater-than"),
    Row("a.b.c.d.e.f.g.h", "a.b.c.d.e.f.g.h", True, "eight tokens"),
    Row("a.*.c.*.e.*.g.>", "a.b.c.d.e.f.g.h.i", True, "every other token a star"),
    Row("a.*.c.*.e.*.g.>", "a.b.c.d.e.f.x.h", False, "every other token a star, one literal wrong"),
)

EXAMPLE: Final = 'tokens are joined by single dots, as in "orders.created"'

NO_PATTERN: Final = (
    Refused("", '"" is empty; a subject is tokens joined by single dots, as in "orders.created"', "empty"),
    Refused("orders..created", f'"orders..created" has an empty token at position 2; {EXAMPLE}', "two dots"),
    Refused(".orders", f'".orders" has an empty token at position 1; {EXAMPLE}', "a leading dot"),
    Refused("orders.", f'"orders." has an empty token at position 2; {EXAMPLE}', "a trailing dot"),
    Refused(".", f'"." has an empty token at position 1; {EXAMPLE}', "a dot alone"),
    Refused("a.b..c.d", f'"a.b..c.d" has an empty token at position 3; {EXAMPLE}', "two dots further on"),
    Refused("a.>.", '"a.>." has ">" at position 2; it can only be the last token', "a dot after greater-than"),
    Refused(">.a", '">.a" has ">" at position 1; it can only be the last token', "greater-than first of two"),
    Refused("a.>.b", '"a.>.b" has ">" at position 2; it can only be the last token', "greater-than in the middle"),
    Refused(">.>", '">.>" has ">" at position 1; it can only be the last token', "two greater-thans"),
    *(
        Refused(
            text,
            f"{text!r} contains {bad!r}; white space and control characters cannot be in a subject",
            why,
        )
        for text, bad, why in (
            (" ", " ", "a space alone"),
            ("orders created", " ", "a space"),
            (" orders", " ", "a leading space"),
            ("orders ", " ", "a trailing space"),
            ("orders.\tcreated", "\t", "a tab"),
            ("orders\r\ncreated", "\r", "CR LF"),
            ("orders\n", "\n", "LF at the end"),
            ("orders\0", "\0", "NUL"),
            ("orders\x1b[31m", "\x1b", "an escape sequence"),
            ("orders\x7f", "\x7f", "DEL"),
            ("orders\x85", "\x85", "NEL"),
            ("orders\xa0created", "\xa0", "a no-break space"),
            ("orders\u2028created", "\u2028", "a line separator"),
            ("orders\u3000created", "\u3000", "an ideographic space"),
        )
    ),
    Refused("a\ud800", "'a\\ud800' contains the lone surrogate '\\ud800', which has no UTF-8 form", "a lone surrogate"),
    Refused(
        "x" * 1025,
        f'"{"x" * 32}…" has 1025 characters; at most 1024 are allowed',
        "one character too long",
    ),
)
"""Texts that are neither a pattern nor a subject."""

NO_SUBJECT: Final = tuple(
    Refused(text, f'"{text}" has the wildcard "{sign}"; wildcards are for subscriptions, publish to a literal subject', why)
    for text, sign, why in (
        ("*", "*", "star alone"),
        (">", ">", "greater-than alone"),
        ("orders.*", "*", "star at the end"),
        ("*.created", "*", "star at the start"),
        ("orders.*.eu", "*", "star in the middle"),
        ("orders.>", ">", "greater-than at the end"),
        ("*.>", "*", "both: the first is named"),
    )
)
"""Patterns that nobody can publish to."""
