"""Find the parts of a message that an expression reads, so that it costs the same for a large body as for a small one."""

from __future__ import annotations

from typing import Any, Final

ELEMENTS: Final = 0
"""In `Parts`, in place of a name: the elements of a list."""

Parts = dict[Any, Any]
"""
A tree of what is read: the name of a field, or ELEMENTS, -> the parts of that value that are read, or None for all of it.

`body.kind == 'push' && body.commits[0].author` reads {"body": {"kind": None, "commits": {ELEMENTS: {"author": None}}}}.
"""

_LISTED: Final = -1
"""At the end of a path: a list that the expression has made of the values at this path."""

Places = tuple[tuple[Any, ...], ...]
"""Where in the message a value may be, as paths; empty for a value that the expression computes."""


def parts_read(parsed: Any) -> Parts | None:
    """The parts that a parsed expression reads from the value it is evaluated for; None: all of it."""
    found: Parts = {}
    _read(found, _walk(found, parsed, (("",),)))
    parts: Parts | None = found.get("", {})
    return parts


def _walk(found: Parts, node: Any, places: Places) -> Places:
    """
    Note what a node reads, and return where its result is.

    Args:
        places: Where the value is that the node is evaluated for.
    """
    kind, children = node["type"], node["children"]
    if kind in ("current", "identity", "slice"):  # the elements of a slice are those of its list
        return places
    if kind in ("field", "index"):
        return _step(found, places, node["value"] if kind == "field" else ELEMENTS)
    if kind in ("subexpression", "index_expression", "pipe"):
        for child in children:
            places = _walk(found, child, places)
        return places
    if kind == "flatten":  # elements that are lists are replaced by their own elements
        outer = _step(found, _walk(found, children[0], places), ELEMENTS)
        return _listed(outer + _step(found, outer, ELEMENTS))
    if kind in ("projection", "filter_projection"):
        each = _step(found, _walk(found, children[0], places), ELEMENTS)
        for condition in children[2:]:
            _read(found, _walk(found, condition, each))
        return _listed(_walk(found, children[1], each))
    if kind == "value_projection":
        _read(found, _walk(found, children[0], places))
    elif kind not in ("literal", "expref"):  # an expref applies to the arguments of its function, which reads all of them
        for child in children:
            _read(found, _walk(found, child, places))
    return ()


def _step(found: Parts, places: Places, name: Any) -> Places:
    """The fields of this name, or the ELEMENTS, of the values at some places."""
    inner = [at[:-1] if at[-1] == _LISTED else (*at, name) for at in places if at[-1] != _LISTED or name == ELEMENTS]
    for at in inner:
        _note(found, at, {})
    return tuple(inner)


def _listed(places: Places) -> Places:
    return tuple((*at, _LISTED) for at in places)


def _read(found: Parts, places: Places) -> None:
    """Note that the values at some places are read as a whole."""
    for at in places:
        _note(found, tuple(name for name in at if name != _LISTED), None)


def _note(parts: Parts, at: tuple[Any, ...], read: Parts | None) -> None:
    *way, last = at
    for name in way:
        parts = parts.setdefault(name, {})
        if parts is None:  # all of it is read anyway
            return
    if read is None:
        parts[last] = None
    else:
        parts.setdefault(last, read)
