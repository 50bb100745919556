"""A PostgreSQL of one's own on loopback, from the system's packages."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.processes import outlived_by

NAME = "gluonexp"  # of the database, and of the role that owns it
REMEDY = "install it: apt-get install postgresql, dnf install postgresql-server or " + (
    "brew install postgresql"
)
_ENDS_S: Final = 5.0  # so long one may take to end whose command was killed


class Absent(GluonexpError):
    """What a PostgreSQL needs is not installed."""


@contextmanager
def postgres(folder: Path, port: int = 0, durable: bool = True) -> Iterator[str]:
    """Run a PostgreSQL server whose data are in `folder`; give the URL of a database in it.

    Only this machine can connect, and only with the password in the URL.

    Parameters
    ----------
    folder
        PostgreSQL's own, made if need be; a server that is started there again has the same data
        and password. PostgreSQL refuses to run as root: then it runs as another user, whom the
        folder is given to, and who must be able to reach it.
    port
        0 for any that is free.
    durable
        Whether data outlive a crash of the machine; without, it is faster.

    Raises
    ------
    Absent
        PostgreSQL or psycopg2 is not installed.
    GluonexpError
        The server does not start.
    """
    programs, folder = _programs(), folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    server = _Server(folder, programs)
    server.check()
    server.refuse_another()
    with server.ended_with_this_process(durable):
        try:
            server.make(durable)
            port = server.start(port, durable)
            admin = f"postgresql://{NAME}:{server.password()}@127.0.0.1:{port}/postgres"
            yield database(admin, NAME)
        finally:
            server.stop(durable)


def database(url: str, name: str) -> str:
    """Return the URL of database `name` on the server of `url`, making what does not exist."""
    try:
        import psycopg2
    except ImportError as error:
        raise Absent("no psycopg2: pip install 'gluonexp[postgres]'") from error

    with closing(psycopg2.connect(url)) as link, link.cursor() as cursor:
        link.autocommit = True  # a database is not made inside a transaction
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if cursor.fetchone() is None:
            cursor.execute(f'CREATE DATABASE "{name}"')
    return f"{url.rpartition('/')[0]}/{name}"


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs; Debian has it outside of PATH."""
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = list(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        raise Absent(f"no PostgreSQL on this machine; {REMEDY}")
    return max(found, key=lambda path: int(path.parts[-3])).parent


def _other_user() -> dict[str, Any]:
    """Return how a process is started as whom PostgreSQL may run."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            known = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": known.pw_uid, "group": known.pw_gid, "extra_groups": []}
    raise GluonexpError("PostgreSQL refuses to run as root; start this as another user")


class _Server:
    def __init__(self, folder: Path, programs: Path) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._password = folder / "password"
        self._programs = programs
        self._as = _other_user()
        self._give(folder)

    def password(self) -> str:
        return self._password.read_text().strip()

    def check(self) -> None:
        if self._done("/usr/bin/env", "test", "-w", self._data.parent).returncode != 0:
            raise GluonexpError(
                f"{self._data.parent}: PostgreSQL, which refuses to run as root, cannot write "
                "there as another user either: choose a folder that everybody can reach"
            )

    def runs(self) -> bool:
        return self._done("pg_ctl", "status", "-D", self._data).returncode == 0

    def refuse_another(self) -> None:
        deadline = time.monotonic() + _ENDS_S
        while self.runs():
            if time.monotonic() > deadline:
                process = (self._data / "postmaster.pid").read_text().split()[0]
                raise GluonexpError(
                    f"{self._data.parent}: a PostgreSQL runs there already, process {process}: "
                    f"choose another folder, or end it with `kill -INT {process}`"
                )
            time.sleep(0.2)

    def ended_with_this_process(self, durable: bool) -> AbstractContextManager[None]:
        program, *arguments = self._stopping(durable)
        return outlived_by(self._programs / program, *arguments, cwd="/", **self._as)

    def make(self, durable: bool) -> None:
        if (self._data / "PG_VERSION").exists():
            return
        self._password.unlink(missing_ok=True)
        self._password.touch(mode=0o600)
        self._password.write_text(secrets.token_hex(16))
        self._give(self._password)
        how = ["--auth=scram-sha-256", "--locale=C", "--encoding=UTF8", f"--username={NAME}"]
        how += ["--no-instructions", *([] if durable else ["--no-sync"])]
        self._run("initdb", "-D", self._data, f"--pwfile={self._password}", *how)

    def start(self, port: int, durable: bool) -> int:
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=''"]
        settings += ["max_connections=300"]
        if not durable:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        where = ["-D", self._data, "-l", self._log]
        for last in (False, False, True):  # a free port may be taken before PostgreSQL has it
            chosen = port or _free_port()
            options = " ".join([f"-p {chosen}", *(f"-c {setting}" for setting in settings)])
            try:
                self._run("pg_ctl", "start", "-w", *where, "-o", options)
                break
            except GluonexpError:
                if port or last:
                    raise
        return chosen

    def stop(self, durable: bool) -> None:
        if self.runs():
            self._run(*self._stopping(durable))

    def _stopping(self, durable: bool) -> list[str]:
        mode = "fast" if durable else "immediate"
        return ["pg_ctl", "stop", "-w", "-D", str(self._data), "-m", mode]

    def _give(self, path: Path) -> None:
        if self._as:
            os.chown(path, self._as["user"], self._as["group"])

    def _done(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(self._programs / program), *map(str, arguments)]
        return subprocess.run(
            command, cwd="/", capture_output=True, text=True, timeout=100, **self._as
        )

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._done(program, *arguments)
        if done.returncode != 0:
            told = f"{done.stdout}{done.stderr}".strip().splitlines()[-2:]
            if self._log.exists():
                told += self._log.read_text(errors="replace").splitlines()[-3:]
            raise GluonexpError(f"{self._data}: {program}: {'; '.join(told)}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
