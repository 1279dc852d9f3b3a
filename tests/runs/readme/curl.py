"""Sends what a `curl` command says to a server of the tests, which must answer with 200."""

from __future__ import annotations

from urllib.parse import urlsplit

from prorank_jax.command_line import CommandParser
from tests.cpu.serving.live import live_server
from tests.runs.readme.commands import Command
from tests.runs.readme.real_runs import Place


def ask_with_curl(command: Command, _: Place) -> None:
    """Fails where the server refuses the request."""
    parser = CommandParser(prog="curl")
    parser.add_argument("url")
    parser.add_argument("-s", "--silent", action="store_true")
    parser.add_argument("-X", "--request")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data")
    given = parser.parse_args(command.words[1:])
    address = urlsplit(given.url if "://" in given.url else f"http://{given.url}")
    assert address.hostname in ("127.0.0.1", "localhost")
    headers = dict(header.split(": ", 1) for header in given.header)
    if given.data is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")  # as curl does
    verb = given.request or ("GET" if given.data is None else "POST")
    with live_server() as live:
        answer = live.ask(verb, address.path, given.data and given.data.encode(), headers)
    assert answer.status == 200, answer.content
