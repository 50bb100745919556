"""Brings up a store for many, on loopback: MLflow's server, over a PostgreSQL.

By compose.yaml where there are containers, else from the system's packages.
"""

from __future__ import annotations

import argparse
import configparser
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from experiments.server.postgres import postgres
from gluonexp.base.errors import GluonexpError
from gluonexp.tracking.serving import Server, check_port, serving

ROOT = Path(__file__).parents[2]
ENGINES = (["docker", "compose"], ["podman", "compose"], ["docker-compose"])


def main() -> int:
    """Serve until Ctrl-C; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.server", description=__doc__)
    parser.add_argument("folder", type=Path, help="where all of it is kept; made if need be")
    parser.add_argument(
        "--port",
        type=port_number,
        metavar="N",
        help="where to listen (without: 5000, or any that is free)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="processes of MLflow's, 250 MB each (without: %(default)s)",
    )
    parser.add_argument("--login", action="store_true", help="ask for a name and a password")
    parser.add_argument(
        "--no-containers", action="store_true", help="use the system's packages in any case"
    )
    wanted = parser.parse_args()
    folder = wanted.folder.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        engine = None if wanted.no_containers else container_engine()
        if engine is None:
            from_packages(folder, wanted.port, wanted.workers, wanted.login)
        by_compose(
            engine,
            folder,
            5000 if wanted.port is None else wanted.port,
            wanted.workers,
            wanted.login,
        )
    except KeyboardInterrupt:
        return 0
    except (GluonexpError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def port_number(word: str) -> int:
    """Return the number of a port, as typed."""
    if not word.isdecimal() or int(word) > 65535:
        raise argparse.ArgumentTypeError(f"{word}: a number up to 65535; 0 for any port")
    return int(word)


def from_packages(folder: Path, port: int | None, workers: int, login: bool) -> NoReturn:
    """Serve from PostgreSQL and MLflow as they are installed here; end by an exception only.

    Parameters
    ----------
    port
        None for 5000, or another if that is taken.

    Raises
    ------
    GluonexpError
        The port is taken, a server does not come up, or MLflow's ends by itself.
    KeyboardInterrupt
        It is enough.
    """
    if port is not None:
        check_port(port)
    with postgres(folder / "postgres") as uri:
        options, environment = secured(folder, uri) if login else ([], {})
        with serving(
            *(uri, folder / "artifacts"),
            port=5000 if port is None else port,
            workers=workers,
            options=options,
            environment=environment,
        ) as server:
            announce(server.base, folder, login)
            print(f"All of it is in {folder}. Press Ctrl-C to stop.", flush=True)
            raise ended(server)


def by_compose(
    engine: Sequence[str], folder: Path, port: int, workers: int, login: bool
) -> NoReturn:
    """Serve from containers: this process becomes the command that runs them."""
    environment = {**os.environ, "PORT": str(port), "WORKERS": str(workers)}
    if login:
        environment |= {"MLFLOW_OPTIONS": "--app-name basic-auth", **login_secrets(folder)}
    announce(f"http://127.0.0.1:{port}", folder, login)
    print("All of it is in volumes of gluonexp's. Press Ctrl-C to stop.", flush=True)
    os.execvpe(engine[0], [*engine, "-f", str(ROOT / "compose.yaml"), "up"], environment)


def ended(server: Server) -> GluonexpError:
    """Wait until MLflow's server ends by itself, and return what is to be told then."""
    status = server.wait()
    how = f"was killed by signal {status - 128}" if status > 128 else f"ended (status {status})"
    return GluonexpError(
        f"MLflow's server {how}, so PostgreSQL was stopped too; nothing that was recorded is "
        "lost, and the same command starts both again"
    )


def container_engine() -> list[str] | None:
    """Return the command of a container engine that works, None if there is none."""
    for engine in ENGINES:
        if shutil.which(engine[0]) is None:
            continue
        # Of a client alone, without the service that it talks to, `ps` fails.
        for words in ([*engine, "version"], [*engine, "-f", str(ROOT / "compose.yaml"), "ps"]):
            if subprocess.run(words, capture_output=True, timeout=60).returncode != 0:
                break
        else:
            return engine
    return None


def secured(folder: Path, uri: str) -> tuple[list[str], dict[str, str]]:
    """Return the options and the environment of a server that asks for a password."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(Path(__file__).with_name("basic_auth.ini"))
    settings["mlflow"]["database_uri"] = uri
    file = folder / "basic_auth.ini"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as written:
        settings.write(written)
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(file), **login_secrets(folder)}
    return ["--app-name", "basic-auth"], environment


def login_secrets(folder: Path) -> dict[str, str]:
    """Return the administrator's password and the key of the server, kept in `folder`."""
    return {
        "MLFLOW_AUTH_ADMIN_PASSWORD": kept_secret(folder / "admin-password"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": kept_secret(folder / "server-key"),
    }


def kept_secret(file: Path) -> str:
    """Return what is in `file`, which only its owner can read; made if it does not exist."""
    if not file.exists():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
            written.write(secrets.token_hex(16))
    return file.read_text()


def announce(base: str, folder: Path, login: bool) -> None:
    """Print how the server is used."""
    print(f"tracking.uri={base}, or for every command: export MLFLOW_TRACKING_URI={base}")
    if login:
        print(
            "export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=$(cat "
            f"{folder / 'admin-password'})\n"
            f"Who that is makes names and passwords for others at {base}/signup"
        )


if __name__ == "__main__":
    sys.exit(main())
