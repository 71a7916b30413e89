"""
Kinds of values: how a file writes what a setting takes. pydantic reads them.

    annotations.py    from the annotation of a setting to the type that pydantic validates into
    base.py           a setting, and what reads the values that pydantic has no type for
    plain.py          whole numbers, durations, sizes
    names.py          names of Python objects, "module:name"; objects.py and imports.py: from a name to its object, and back
    functions.py      functions of a message: { expr = "…" }, { python = "module:name" }
    messages.py       subjects, patterns, keys, headers
    foreign.py        all other annotations
    matchers.py       what a test of a file expects; expected.py compares it with what was found
    refusals.py       from an error of pydantic to the problems of a file
    data.py           any data, and from a Python value to a value of a file
    draft7.py         JSON Schema as editors for TOML understand it
"""
