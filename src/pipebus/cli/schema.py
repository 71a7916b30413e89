"""`pipebus schema`: print the schema by which editors complete and check config files."""

import argparse
import json

SUMMARY = "print the JSON Schema of config files, with all installed filters"
EXAMPLE = """\
examples:
  pipebus schema > pipebus.schema.json      then, as the first line of pipebus.toml:
                                            #:schema ./pipebus.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compact", action="store_true", help="print it in one line")


def run(args: argparse.Namespace) -> int:
    from pipebus.config.writing.schema import schema

    print(json.dumps(schema(), ensure_ascii=False, indent=None if args.compact else 2, default=str))
    return 0
