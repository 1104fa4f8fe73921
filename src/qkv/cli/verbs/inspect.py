"""Look inside a model in the browser: attention, search, heads, shapes."""

import os
import socket
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import suppress
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_run, translator_of
from qkv.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

_PORT, _PORTS = 8000, 20  # the first to try, and how many
_ANY_ADDRESS = ("0.0.0.0", "::")
_OF_EVERY_RUN = ("best", "last")  # checkpoints that each run has one of


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--compare", metavar="RUN2", help="a second run, to be shown side by side")
    second = "of RUN2; by default what --checkpoint says where that is best or last, else best"
    parser.add_argument("--compare-checkpoint", metavar="NAME", help=second)
    parser.add_argument("--port", type=_port, metavar="N", help=f"a free one from {_PORT} on by default")
    host = "address to listen on (default: 127.0.0.1, this machine alone); there is no authentication: whoever "
    host += "reaches another address may use the model"
    parser.add_argument("--host", default="127.0.0.1", help=host)
    parser.add_argument("--no-browser", action="store_true", help="open no browser")


def run(options: Namespace) -> None:
    if options.compare_checkpoint is not None and options.compare is None:
        raise UserError("--compare-checkpoint goes with --compare RUN2")
    translators = [(options.run, translator_of(options))]
    if options.compare is not None:
        # A checkpoint's path or number is one run's.
        shared = options.checkpoint if options.checkpoint in _OF_EVERY_RUN else None
        second = {"run": options.compare, "checkpoint": options.compare_checkpoint or shared}
        translators.append((options.compare, translator_of(Namespace(**vars(options) | second))))
    try:
        import uvicorn  # noqa: F401  (needed in a moment: both are missed at once)

        from qkv.serving.examination import Subject
        from qkv.serving.inspector import LOOPBACK, create_app
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise UserError("the inspector needs FastAPI and uvicorn; run: pip install 'qkv[inspect]'") from None
    hosts = ["*"] if options.host in _ANY_ADDRESS else [*LOOPBACK, _in_url(options.host)]  # *: any name it has
    app = create_app([Subject(name, translator) for name, translator in translators], hosts)
    with _listen(options.host, options.port) as listening, suppress(KeyboardInterrupt):
        _serve(app, listening, options)


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that already takes connections, so that a browser may be sent there at once.

    Raises:
        UserError: if the port is taken, or there is no such address here.
    """
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}") from None
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # :: is every address of both kinds
    for candidate in range(_PORT, _PORT + _PORTS) if port is None else (port,):
        try:
            return socket.create_server((host, candidate), family=family, backlog=128, dualstack_ipv6=dual)
        except OSError as error:
            if port is not None:
                reason = os.strerror(error.errno or 0)
                raise UserError(f"port {port} of {host} cannot be used: {reason}; say another --port") from None
    raise UserError(f"no port from {_PORT} to {_PORT + _PORTS - 1} of {host} can be used; say another --port")


def _serve(app: "FastAPI", listening: socket.socket, options: Namespace) -> None:
    import uvicorn

    host = "127.0.0.1" if options.host in _ANY_ADDRESS else options.host
    address = f"http://{_in_url(host)}:{listening.getsockname()[1]}/"
    print(f"Inspector: {address} (Ctrl-C ends it)", flush=True)
    if not options.no_browser:
        import webbrowser

        webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ArgumentTypeError(f"a number from 1 to 65535 is needed, not {text!r}")
    return int(text)
