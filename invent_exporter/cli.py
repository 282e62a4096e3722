"""Flags and commands; nothing else knows about argv.

What a command needs is imported when it runs: `--version` and `--help` load the flag parser alone.

Longer than most modules: the flags of every command, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from invent_exporter import __version__
from invent_exporter.errors import (
    BackfillError,
    ConfigError,
    ListenError,
    OutputError,
    StateError,
    UsageError,
)

if TYPE_CHECKING:
    from invent_exporter.config.load import Config
    from invent_exporter.redaction import Redactor
    from invent_exporter.web.listening import HealthPlace

PROGRAM = "invent-exporter"
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
DEFAULT_ADDRESS = ":10480"
_ORDERS = ("created", "updated", "oldest", "mixed")
_LEVELS = ("debug", "info", "warn", "error")

Place = tuple[list[tuple[str, int]], str]
"""Where to serve, and the path of the metrics."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 2 for bad flags or configuration, else 1."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except (ConfigError, StateError, ListenError, OutputError, BackfillError) as error:
        print(f"{PROGRAM}:", *str(error).splitlines(), file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except Exception:  # noqa: BLE001 - a bug is a log line like every other, without secrets
        from invent_exporter.log import get_logger

        get_logger(__name__).exception("ended by a bug")
        return EXIT_FAILED


def _run(arguments: list[str]) -> int:
    # `serve` may be left out, also in front of its flags.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "serve")
    flags = _parser().parse_args(arguments)
    if flags.version:
        _say(f"{PROGRAM}, version {__version__} (Python {sys.version.split()[0]})")
        return EXIT_OK
    # Until a command listens for signals itself. As process 1 of a container it has to: there the
    # kernel drops a signal that nobody waits for, and the container's stop would time out. A shell
    # script's background process begins with SIGINT ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        from invent_exporter.log import setup_logging
        from invent_exporter.redaction import Redactor

        redactor = Redactor()
        setup_logging(flags.log_level, flags.log_format, redactor)
        return int(flags.run(flags, redactor))
    except KeyboardInterrupt:
        # 0 of `check` would say that every org has answered, and of `backfill` that it is done.
        if flags.run in (_check, _backfill, _migrate):
            raise OutputError("interrupted") from None
        return EXIT_OK


def _say(text: str) -> None:
    """Print at once, so that a full disk or a closed pipe is not missed."""
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would fail again at its end, with what is still in the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"standard output: {error.strerror}") from error


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")

    def print_help(self, _file: object = None) -> None:
        _say(self.format_help().rstrip())

    # The options are argparse's own.
    def add(self, flag: str, meaning: str, *aliases: str, **options: Any) -> None:  # noqa: ANN401
        """Add a flag; `--a.b-c` becomes `a_b_c`."""
        if options.get("default") is not None:
            meaning = f"{meaning} (default %(default)s)".lstrip()
        dest = re.sub(r"\W", "_", flag[2:])
        self.add_argument(flag, *aliases, dest=dest, help=meaning, **options)


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        description="Prometheus exporter for Invent workflow runs.",
        epilog="Without a command: serve. `invent-exporter COMMAND --help` lists its flags.",
        allow_abbrev=False,
    )
    parser.set_defaults(log_level="info", log_format="logfmt")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[..., int], meaning: str) -> _Parser:
        added: _Parser = commands.add_parser(name, help=meaning, allow_abbrev=False)
        added.set_defaults(run=run, commands=commands.choices)
        return added

    serve = command("serve", _serve, "poll every org and serve metrics until SIGTERM")
    check = command("check", _check, "ask each org for one page and print what was found")
    demo = command("demo", _demo, "serve a simulated Invent API and the exporter on it")
    simulate = command("simulate", _simulate, "serve the simulated Invent API alone")
    assets = command("assets", _assets, "write out the rules and dashboards of this version")
    backfill = command("backfill", _backfill, "write past runs as OpenMetrics, for promtool")

    completion = command("completion", _completion, "print what completes flags in a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    explain, ledger = _of_what_is_known(command)

    file = "YAML file; INVENT_API_KEY or INVENT_API_KEY_FILE are enough alone for one org"
    for each in (serve, check, backfill, explain, ledger):
        each.add("--config.file", file, metavar="FILE", type=_file)
    only_check = "read the configuration, say what is wrong or `ok`, and end; no network"
    serve.add("--config.check", only_check, action="store_true")
    where = f"where to serve (default {DEFAULT_ADDRESS}); may be given several times"
    for each in (serve, demo):
        each.add("--web.listen-address", where, metavar="HOST:PORT", action="append")
        each.add("--web.telemetry-path", "path of the metrics", metavar="PATH", default="/metrics")
    check.add("--json", "for programs, by docs/check.schema.json", action="store_true")
    of_web = "YAML file with TLS, users and more, in the format of Prometheus' exporter-toolkit"
    serve.add("--web.config.file", of_web, metavar="FILE", type=_file)
    health = "where health is told without TLS and login: unix:///PATH, or HOST:PORT of loopback"
    serve.add("--web.health-address", health, metavar="ADDRESS")
    serve.add("--web.enable-lifecycle", "let POST /-/reload reload it", action="store_true")
    here, at = "where the simulated API listens, a loopback address", "127.0.0.1:10481"
    for each in (demo, simulate):
        each.add(
            "--simulator.listen-address", here, "--listen-address", metavar="HOST:PORT", default=at
        )
        each.add("--seed", "", type=int, default=1)
        each.add("--order", "of the listed runs", choices=_ORDERS, default="created")
        each.add("--no-count", "leave out pagination headers", action="store_true")
        limit = "requests a minute for each client, 0 for no limit"
        each.add("--rate-limit", limit, type=_count, default=500, metavar="N")
    where = "the folder for rules/ and dashboards/, made when it is missing"
    assets.add("--output", where, metavar="DIR", type=Path, required=True)
    backfill.add("--since", "how far back", metavar="DURATION", default="30d")
    backfill.add("--step", "between two samples of a series", metavar="DURATION", default="1m")
    what = "the file to write; what was read stands in FILE.spool until it is whole"
    backfill.add("--output", what, metavar="FILE", type=Path, required=True)
    label = "of every series; job and instance as the scrape has them; may be given several times"
    backfill.add("--label", label, metavar="NAME=VALUE", action="append")
    for each, level in ((serve, "info"), (check, "error"), (demo, "info")):
        each.add("--log.level", "", choices=_LEVELS, default=level)
        each.add("--log.format", "", choices=("logfmt", "json"), default="logfmt")
    for each in (parser, *commands.choices.values()):
        each.add("--version", "print the version and end", action="store_true")
    return parser


def _of_what_is_known(command: Callable[..., _Parser]) -> tuple[_Parser, _Parser]:
    """Add the commands that look at the state, or move it."""
    explain = command("explain", _explain, "say why a run counted, where and when, or why not")
    explain.add_argument("run_id", metavar="RUN_ID")
    ledger = command("ledger", _ledger, "verify, back up, or forget an org of the state file")
    ledger.add_argument(
        "action", choices=("verify", "backup", "forget"), help="forget: while serve does not run"
    )
    ledger.add_argument(
        "what", nargs="?", metavar="FILE|ORG", help="the file to write, or the org to forget"
    )

    migrate = command(
        "migrate", _migrate, "copy all that is known to another state, while serve rests"
    )
    migrate.add("--from", "what is known, as in state.url", metavar="URL", required=True)
    migrate.add("--to", "where nothing is known yet", metavar="URL", required=True)
    return explain, ledger


def _file(text: str) -> Path:
    if not text:  # Path would take it for the working directory
        raise argparse.ArgumentTypeError("the path is empty: expected the path of a YAML file")
    return Path(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number: expected 0 or more")
    return int(text)


def _load(flags: argparse.Namespace, redactor: Redactor) -> Config:
    from invent_exporter.api.client import make_client
    from invent_exporter.config.load import load_config

    config = load_config(flags.config_file, os.environ, redactor)
    make_client(config.api.url)  # for its errors, before anything is opened
    return config


def _serve(flags: argparse.Namespace, redactor: Redactor) -> int:
    place = _web_place(flags)
    health = _health_place(flags.web_health_address)
    config = _load(flags, redactor)
    if (web_file := flags.web_config_file) is not None:
        from invent_exporter.web.guard import WebFile

        web_file = WebFile(web_file)
    if flags.config_check:
        _say("ok")
        return EXIT_OK
    reload = {"config_file": flags.config_file, "may_reload": flags.web_enable_lifecycle}
    return _run_serve(config, redactor, place, web_file=web_file, health=health, **reload)


def _web_place(flags: argparse.Namespace) -> Place:
    from invent_exporter.web.routes import check_telemetry_path

    given = flags.web_listen_address or [DEFAULT_ADDRESS]
    addresses = dict.fromkeys(_address("--web.listen-address", each) for each in given)
    try:
        return list(addresses), check_telemetry_path(flags.web_telemetry_path)
    except ValueError as error:
        raise UsageError(error) from None  # it names the flag


def _health_place(address: str | None) -> HealthPlace | None:
    from invent_exporter.web.listening import parse_health_address

    try:
        return None if address is None else parse_health_address(address)
    except ValueError as error:
        raise UsageError(f"--web.health-address: {error}") from None


def _address(flag: str, text: str) -> tuple[str, int]:
    from invent_exporter.web.listening import parse_listen_address

    try:
        return parse_listen_address(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _run_serve(config: Config, redactor: Redactor, place: Place, **options: Any) -> int:  # noqa: ANN401
    import asyncio

    from invent_exporter.app import serve

    options |= {"addresses": place[0], "telemetry_path": place[1]}
    options["revision"] = os.environ.get("INVENT_EXPORTER_REVISION", "")
    asyncio.run(serve(config, redactor, **options))
    return EXIT_OK


def _check(flags: argparse.Namespace, redactor: Redactor) -> int:
    config = _load(flags, redactor)
    import asyncio

    from invent_exporter.commands.check import as_json, check, shown

    report = asyncio.run(check(config, redactor))
    _say(as_json(report, redactor) if flags.json else shown(report, redactor))
    return EXIT_OK if report.ok else EXIT_FAILED


def _demo(flags: argparse.Namespace, redactor: Redactor) -> int:
    place = _web_place(flags)
    with _simulator(flags) as url:
        from invent_exporter.commands.demo import demo_config, places

        return _run_serve(
            demo_config(url),
            redactor,
            place,
            outlives_hangup=False,  # it ends with the terminal that it was started in
            on_listening=lambda addresses: _say(places(addresses, place[1], url)),
        )


def _simulate(flags: argparse.Namespace, _redactor: Redactor) -> int:
    with _simulator(flags) as url:
        from invent_exporter.simulator import DEMO_KEY

        _say(f"simulated Invent API: {url}  key: {DEMO_KEY}")
        while True:  # until SIGTERM or SIGINT
            signal.pause()


def _simulator(flags: argparse.Namespace) -> contextlib.AbstractContextManager[str]:
    from invent_exporter.commands.demo import SIMULATOR_FLAG, simulator
    from invent_exporter.simulator import Settings

    limit = flags.rate_limit or None
    settings = Settings(order=flags.order, count=not flags.no_count, rate_limit_per_minute=limit)
    address = _address(SIMULATOR_FLAG, flags.simulator_listen_address)
    return simulator(address, flags.seed, settings)


def _assets(flags: argparse.Namespace, _redactor: Redactor) -> int:
    from invent_exporter.commands.assets import write_assets

    try:
        written = write_assets(flags.output)
    except OSError as error:
        raise OutputError(f"--output: {error.filename}: {error.strerror}") from error
    _say("\n".join(map(str, written)))
    return EXIT_OK


def _completion(flags: argparse.Namespace, _redactor: Redactor) -> int:
    from invent_exporter.commands.completion import Word, script

    words = {
        name: [
            Word(word, action.nargs != 0, action.choices or (), (action.help or "") % vars(action))
            for action in command._actions  # noqa: SLF001 - argparse lists them nowhere else
            for word in action.option_strings or [action.dest]
        ]
        for name, command in flags.commands.items()
    }
    _say(script(flags.shell, PROGRAM, words))
    return EXIT_OK


def _explain(flags: argparse.Namespace, redactor: Redactor) -> int:
    from invent_exporter.commands.explain import explain
    from invent_exporter.config.load import load_config

    config = load_config(flags.config_file, os.environ, redactor)
    lines, is_known = explain(config.state_url, flags.run_id, config.workflows)
    _say("\n".join(redactor.redact(line) for line in lines))
    return EXIT_OK if is_known else EXIT_FAILED


def _ledger(flags: argparse.Namespace, _redactor: Redactor) -> int:
    from invent_exporter.commands import ledger

    action, what = flags.action, flags.what
    if (what is None) != (action == "verify"):
        expected = {"verify": "nothing", "backup": "a file to write", "forget": "an org's id"}
        raise UsageError(f"ledger {action}: expected {expected[action]} after it")
    state_url = _state_url(flags)
    if action == "verify":
        _say(ledger.verify(state_url))
    elif action == "backup":
        _say(ledger.backup(state_url, Path(what)))
    else:
        _say(ledger.forget(state_url, what))
    return EXIT_OK


def _state_url(flags: argparse.Namespace) -> str:
    from invent_exporter.config.load import load_config

    return load_config(flags.config_file, os.environ).state_url


def _migrate(flags: argparse.Namespace, redactor: Redactor) -> int:
    from invent_exporter.commands.migrate import migrate
    from invent_exporter.config.state import read_flag

    given = {flag: getattr(flags, flag.lstrip("-")) for flag in ("--from", "--to")}
    source, target = (read_flag(flag, url, redactor) for flag, url in given.items())
    _say(migrate(source, target))
    return EXIT_OK


def _backfill(flags: argparse.Namespace, redactor: Redactor) -> int:
    from invent_exporter.commands.backfill import backfill
    from invent_exporter.commands.backfill_plan import make_plan

    plan = make_plan(flags.output, flags.since, flags.step, flags.label or (), time.time())
    backfill(_load(flags, redactor), redactor, plan, _say)
    return EXIT_OK
