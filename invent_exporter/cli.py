"""Flags and commands; nothing else knows about argv.

What a command needs is imported when it runs: `--version` and `--help` load the flag parser alone.

Longer than most modules: the flags of five commands, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from invent_exporter import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from invent_exporter.config.load import Config
    from invent_exporter.log import Secrets

PROGRAM = "invent-exporter"
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
DEFAULT_ADDRESS = ":10480"
_REVISION_VARIABLE = "INVENT_EXPORTER_REVISION"
_NOT_YET = "not supported yet"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{PROGRAM}: {message}; see --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 2 for bad flags or configuration, else 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # `serve` may be left out, also in front of its flags.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "serve")
    flags = parser.parse_args(arguments)
    if flags.version:
        print(f"{PROGRAM}, version {__version__} (Python {sys.version.split()[0]})")
        return EXIT_OK
    # Until a command listens for signals itself. As process 1 of a container it has to: there the
    # kernel drops a signal that nobody waits for, and the container's stop would time out. A shell
    # script's background process begins with SIGINT ignored.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        result: int = flags.run(flags)
    except KeyboardInterrupt:
        # 0 of `check` would say that every org has answered.
        return _fail("interrupted") if flags.run is _check else EXIT_OK
    return result


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        description="Prometheus exporter for Invent workflow runs.",
        epilog="Without a command: serve. `invent-exporter COMMAND --help` lists its flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve", help="poll every org and serve metrics until SIGTERM", allow_abbrev=False
    )
    _add_config(serve)
    serve.add_argument(
        "--config.check",
        dest="config_check",
        action="store_true",
        help="read the configuration, say what is wrong or `ok`, and end; no network",
    )
    _add_web(serve)
    serve.add_argument("--web.config.file", dest="web_config", metavar="FILE", help=_NOT_YET)
    serve.add_argument(
        "--web.enable-lifecycle", dest="lifecycle", action="store_true", help=_NOT_YET
    )
    _add_log(serve)
    serve.set_defaults(run=_serve)
    check = commands.add_parser(
        "check", help="ask each org for one page and print what was found", allow_abbrev=False
    )
    _add_config(check)
    _add_log(check, level="error")
    check.set_defaults(run=_check)
    demo = commands.add_parser(
        "demo", help="serve a simulated Invent API and the exporter on it", allow_abbrev=False
    )
    _add_web(demo)
    _add_simulator(demo)
    _add_log(demo)
    demo.set_defaults(run=_demo)
    simulate = commands.add_parser(
        "simulate", help="serve the simulated Invent API alone", allow_abbrev=False
    )
    _add_simulator(simulate)
    simulate.set_defaults(run=_simulate)
    backfill = commands.add_parser("backfill", help=_NOT_YET, allow_abbrev=False)
    backfill.set_defaults(run=_backfill)
    for command in (serve, check, demo, simulate, backfill):
        command.add_argument("--version", action="store_true", help="print the version and end")
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config.file",
        dest="config_file",
        metavar="FILE",
        type=_file,
        help="YAML file; INVENT_API_KEY or INVENT_API_KEY_FILE are enough alone for one org",
    )


def _add_web(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--web.listen-address",
        dest="addresses",
        metavar="HOST:PORT",
        action="append",
        help=f"where to serve (default {DEFAULT_ADDRESS}); may be given several times",
    )
    parser.add_argument(
        "--web.telemetry-path",
        dest="telemetry_path",
        metavar="PATH",
        default="/metrics",
        help="path of the metrics (default %(default)s)",
    )


def _add_log(parser: argparse.ArgumentParser, level: str = "info") -> None:
    parser.add_argument(
        "--log.level",
        dest="log_level",
        choices=("debug", "info", "warn", "error"),
        default=level,
        help="(default %(default)s)",
    )
    parser.add_argument(
        "--log.format",
        dest="log_format",
        choices=("logfmt", "json"),
        default="logfmt",
        help="(default %(default)s)",
    )


def _add_simulator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--simulator.listen-address",
        "--listen-address",
        dest="simulator_address",
        metavar="HOST:PORT",
        default="127.0.0.1:10481",
        help="where the simulated API listens, a loopback address (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="(default %(default)s)")
    parser.add_argument(
        "--order",
        choices=("created", "updated", "oldest", "mixed"),
        default="created",
        help="of the listed runs (default %(default)s)",
    )
    parser.add_argument("--no-count", action="store_true", help="leave out pagination headers")
    parser.add_argument(
        "--rate-limit",
        type=_count,
        default=500,
        metavar="N",
        help="requests a minute for each client, 0 for no limit (default %(default)s)",
    )


def _file(text: str) -> Path:
    if not text:  # Path would take it for the working directory
        raise argparse.ArgumentTypeError("the path is empty: expected the path of a YAML file")
    return Path(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number: expected 0 or more")
    return int(text)


def _fail(message: object, status: int = EXIT_FAILED) -> int:
    line = " ".join(str(message).splitlines())
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    return status


def _load(flags: argparse.Namespace) -> tuple[Config, Secrets] | int:
    from invent_exporter.api.client import make_client
    from invent_exporter.config.load import load_config
    from invent_exporter.errors import ConfigError
    from invent_exporter.log import Secrets, setup_logging

    secrets = Secrets()
    setup_logging(flags.log_level, flags.log_format, secrets)
    try:
        config = load_config(flags.config_file, os.environ)
        make_client(config.api.url)  # for its errors, before anything is opened
        return config, secrets
    except ConfigError as error:
        return _fail(error, EXIT_USAGE)


def _serve(flags: argparse.Namespace) -> int:
    for flag, given in (
        ("--web.config.file", flags.web_config is not None),
        ("--web.enable-lifecycle", flags.lifecycle),
    ):
        if given:
            return _fail(f"{flag} is {_NOT_YET}; leave it out", EXIT_USAGE)
    place = _web_place(flags)
    if isinstance(place, int):
        return place
    loaded = _load(flags)
    if isinstance(loaded, int):
        return loaded
    if flags.config_check:
        print("ok")
        return EXIT_OK
    config, secrets = loaded
    return _run_serve(config, secrets, *place)


def _web_place(flags: argparse.Namespace) -> tuple[list[tuple[str, int]], str] | int:
    from invent_exporter.web.routes import check_telemetry_path
    from invent_exporter.web.server import parse_listen_address

    try:
        given = flags.addresses or [DEFAULT_ADDRESS]
        addresses = list(dict.fromkeys(parse_listen_address(each) for each in given))
    except ValueError as error:
        return _fail(f"--web.listen-address: {error}", EXIT_USAGE)
    try:
        return addresses, check_telemetry_path(flags.telemetry_path)
    except ValueError as error:
        return _fail(error, EXIT_USAGE)  # it names the flag


def _run_serve(
    config: Config,
    secrets: Secrets,
    addresses: Sequence[tuple[str, int]],
    telemetry_path: str,
    *,
    outlives_hangup: bool = True,
    on_listening: Callable[[Sequence[tuple[str, int]]], None] = lambda _addresses: None,
) -> int:
    import asyncio

    from invent_exporter.app import serve
    from invent_exporter.errors import ListenError, StateError

    try:
        asyncio.run(
            serve(
                config,
                secrets,
                addresses=addresses,
                telemetry_path=telemetry_path,
                revision=os.environ.get(_REVISION_VARIABLE, ""),
                outlives_hangup=outlives_hangup,
                on_listening=on_listening,
            )
        )
    except (StateError, ListenError) as error:
        return _fail(error)
    except Exception:  # noqa: BLE001 - a bug is logged
        return _bug()
    return EXIT_OK


def _bug() -> int:
    """Log the exception as a line like every other: in the log's format, and without secrets."""
    from invent_exporter.log import get_logger

    get_logger(__name__).exception("ended by a bug")
    return EXIT_FAILED


def _check(flags: argparse.Namespace) -> int:
    loaded = _load(flags)
    if isinstance(loaded, int):
        return loaded
    import asyncio

    from invent_exporter.commands.check import check

    try:
        return EXIT_OK if asyncio.run(check(*loaded, sys.stdout)) else EXIT_FAILED
    except Exception:  # noqa: BLE001 - a bug is logged
        return _bug()


def _demo(flags: argparse.Namespace) -> int:
    place = _web_place(flags)
    if isinstance(place, int):
        return place
    simulator = _simulator_place(flags)
    if isinstance(simulator, int):
        return simulator
    from invent_exporter.commands.demo import demo_config, start_simulator
    from invent_exporter.log import Secrets, setup_logging
    from invent_exporter.web.server import join_address

    secrets = Secrets()
    setup_logging(flags.log_level, flags.log_format, secrets)
    addresses, telemetry_path = place
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(
                start_simulator(
                    *simulator,
                    seed=flags.seed,
                    order=flags.order,
                    send_count=not flags.no_count,
                    requests_per_minute=flags.rate_limit,
                )
            )
        except OSError as error:
            return _fail(f"--simulator.listen-address: {flags.simulator_address}: {error.strerror}")

        def print_addresses(addresses: Sequence[tuple[str, int]]) -> None:
            for host, port in addresses:
                is_anywhere = host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not listened on
                address = join_address("localhost" if is_anywhere else host, port)
                print(f"page for people        http://{address}/")
                print(f"metrics                http://{address}{telemetry_path}")
            print(f"simulated Invent API   {server.url}", flush=True)

        return _run_serve(
            demo_config(server.url),
            secrets,
            addresses,
            telemetry_path,
            outlives_hangup=False,  # it ends with the terminal that it was started in
            on_listening=print_addresses,
        )


def _simulator_place(flags: argparse.Namespace) -> tuple[str, int] | int:
    from invent_exporter.config.load import is_loopback
    from invent_exporter.web.server import parse_listen_address

    try:
        host, port = parse_listen_address(flags.simulator_address)
    except ValueError as error:
        return _fail(f"--simulator.listen-address: {error}", EXIT_USAGE)
    host = host or "127.0.0.1"
    if not is_loopback(host):
        # Whoever reaches it may change what it answers, and the key to it is no secret.
        message = f"--simulator.listen-address: {flags.simulator_address!r} is not of this machine"
        return _fail(f"{message} alone; expected a loopback address", EXIT_USAGE)
    return host, port


def _simulate(flags: argparse.Namespace) -> int:
    place = _simulator_place(flags)
    if isinstance(place, int):
        return place
    from invent_exporter.commands.demo import simulate

    try:
        simulate(
            *place,
            seed=flags.seed,
            order=flags.order,
            send_count=not flags.no_count,
            requests_per_minute=flags.rate_limit,
        )
    except OSError as error:
        return _fail(f"--simulator.listen-address: {flags.simulator_address}: {error.strerror}")
    return EXIT_OK


def _backfill(_flags: argparse.Namespace) -> int:
    return _fail(f"backfill is {_NOT_YET}", EXIT_USAGE)
