"""
Buses declared in TOML files: loaded, checked, exported. `Bus.from_config` and `bus.export_config` are the ways in.

    files.py          the ways in
    document.py       a file: its data, and the line of each key
    kinds.py          how a file writes what a setting takes; names.py: and what is named "module:name"
    vocabulary.py     what each table may hold
    reader.py         a document becomes a bus, or all that is wrong with it; chains.py: its filters and chains
    writer.py         a bus becomes a document, and its text
    schema.py         what editors are told
    cases.py          [[tests]]; pipebus.testing runs them
"""
