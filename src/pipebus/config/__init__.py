"""
Buses declared in TOML files: read, checked and written. `Bus.from_config` and `bus.export_config` use it.

    files.py       from a file to a bus, and from a bus to the text of a file
    beside.py      imports of modules in the folder of a config file
    reading/       a file becomes a bus, or the list of everything that is wrong with it
    writing/       a bus becomes a file; the schema for editors
    vocabulary.py  what each table may hold: models of pydantic, made of sections.py
    catalogue.py   the filters that a file may use, and (settings.py) what they take, as models too
    kinds/         how a file writes the value of a setting
    problems.py    what is wrong with a file, and (wording.py) how errors say it
"""
