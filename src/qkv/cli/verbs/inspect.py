"""`qkv inspect`: look inside a model in the browser, on this machine."""

import socket
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import suppress
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_run, translator_of
from qkv.cli.verb import Verb
from qkv.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from qkv.translator import Translator

_PORT, _PORTS = 8000, 20  # the first to try, and how many
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ANY_ADDRESS = ("0.0.0.0", "::")
_OF_EVERY_RUN = ("best", "last")  # checkpoints that each run has one of


def _add(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--compare", metavar="RUN2", help="a second run, to be shown side by side")
    parser.add_argument(
        "--compare-checkpoint",
        metavar="NAME",
        help="of RUN2; by default what --checkpoint says where that is best or last, else best",
    )
    parser.add_argument("--port", type=_port, metavar="N", help=f"a free one from {_PORT} on by default")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone); there is no authentication: whoever "
        "reaches another address may use the model",
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser")


def _run(options: Namespace) -> None:
    if options.compare_checkpoint is not None and options.compare is None:
        raise UserError("--compare-checkpoint goes with --compare RUN2")
    first = translator_of(options)
    second = None if options.compare is None else translator_of(_of_second(options))
    app = _app(options, first, second)
    listening = _listen(options.host, options.port)
    with listening, suppress(KeyboardInterrupt):
        _serve(app, listening, options)


def _of_second(options: Namespace) -> Namespace:
    """What the second run is loaded with: a checkpoint's path or number is one run's, best and last are each run's."""
    checkpoint = options.compare_checkpoint
    if checkpoint is None and options.checkpoint in _OF_EVERY_RUN:
        checkpoint = options.checkpoint
    return Namespace(**vars(options) | {"run": options.compare, "checkpoint": checkpoint})


def _app(options: Namespace, first: "Translator", second: "Translator | None") -> "FastAPI":
    try:
        import uvicorn  # noqa: F401  (needed in a moment: both are missed at once)

        from qkv.serving.examination import Subject
        from qkv.serving.inspector import LOOPBACK, create_app
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise UserError("the inspector needs FastAPI and uvicorn; run: pip install 'qkv[inspect]'") from None
    subjects = [Subject(options.run, first)]
    if second is not None:
        subjects.append(Subject(options.compare, second))
    hosts: tuple[str, ...] = LOOPBACK
    if options.host in _ANY_ADDRESS:
        hosts = ("*",)  # whatever names this machine has
    elif options.host not in _LOOPBACK:
        hosts = (*LOOPBACK, _in_url(options.host))
    return create_app(subjects, hosts)


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that already takes connections, so that a browser may be sent there at once.

    Raises:
        UserError: if the port is taken, or there is no such address here.
    """
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}") from None
    for candidate in range(_PORT, _PORT + _PORTS) if port is None else (port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            if port is not None:
                raise UserError(f"port {port} of {host} cannot be used: {error.strerror}; say another --port") from None
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


VERB = Verb("look inside a model in the browser: attention, search, heads, shapes", _add, _run)
