"""
Reading: a config file becomes a bus, or the list of everything that is wrong with it.

    interpolation.py  ${env:X} and ${file:p} in texts
    positions.py      the line of each key
    document.py       a file: its data with texts interpolated, and its lines
    table.py          one table of a file: its model, and problems with it
    filters.py        a filter's table becomes a filter
    chains.py         a list of filters becomes the nodes of a chain
    subscriptions.py  [[subscriptions]]
    cases.py          a test of a file, and what replaces handlers and filters in it; tests.py: checks of [[tests]]
    reader.py         the whole file
"""
