"""
Writing: a bus becomes a config file, and editors get a schema of config files.

    writer.py   a bus becomes the data of a file
    nodes.py    filters and chains become entries of a file
    toml.py     data becomes the text of a file
    schema.py   JSON Schema of config files
"""
