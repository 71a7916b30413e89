"""
Kinds of values: how a file writes what a setting takes.

    base.py           what a kind is
    plain.py          text, true and false, numbers, durations, sizes, choices
    containers.py     any data, lists, tables, and "one of several kinds"
    other.py          every other annotation, checked by pydantic
    names.py          names of Python objects, "module:name"; objects.py and imports.py: from a name to its object, and back
    functions.py      functions of a message: { expr = "…" }, { python = "module:name" }
    messages.py       subjects, patterns, keys, headers
    matchers.py       what a test of a file expects; expected.py compares it with what was found
    annotations.py    the kind of a setting, from its annotation
    draft7.py         JSON Schema as editors for TOML understand it
"""
