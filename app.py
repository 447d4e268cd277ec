"""Starts the page: `python app.py`."""

import argparse
import sys
from pathlib import Path

from quantui.errors import InputError
from quantui.workspace import default_root

parser = argparse.ArgumentParser(description="QuantUI: see what quantization does to a model, and write what you deploy.")
parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but this machine's own needs --auth")
parser.add_argument("--port", type=int, default=7860, help="port to listen on")
parser.add_argument("--workspace", type=Path, default=default_root(), metavar="DIR", help="where everything is kept")
parser.add_argument("--allow", type=Path, action="append", default=[], metavar="DIR", help="another folder to read models from")
parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for this name and password")
parser.add_argument("--open", action=argparse.BooleanOptionalAction, default=True, help="open a browser")
parser.add_argument(
    "--spare",
    action=argparse.BooleanOptionalAction,
    default=True,
    help="keep torch and transformers imported (0.5 GB), so that jobs begin at once",
)

if __name__ == "__main__":
    given = parser.parse_args()
    from quantui.ui.app import serve

    try:
        serve(
            given.workspace,
            host=given.host,
            port=given.port,
            allow=given.allow,
            auth=given.auth,
            open_browser=given.open,
            spare=given.spare,
        )
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
