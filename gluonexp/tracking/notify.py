"""Somebody is told how a run or a sweep ended: by a command of theirs, or by a webhook.

A notice is JSON. Its ``text`` is what chat services show that take webhooks (Slack, Mattermost,
Teams), the rest is for programs. Whatever becomes of it, the run has ended as it did.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from os import getpid, killpg
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gluonexp.base.errors import GluonexpError, sentence
from gluonexp.base.plain import plain
from gluonexp.base.secrets import hidden
from gluonexp.base.text import digits, duration, escaped, say
from gluonexp.tracking.statuses import FAILED, FINISHED, KILLED

if TYPE_CHECKING:
    from gluonexp.config.schema import NotifyConfig

_SHOWN: Final = 300  # characters of what a command printed before it failed
_LONGEST: Final = 2000  # characters of a reason


@dataclass
class Told:
    """What is going to be told, filled in as it becomes known.

    Attributes
    ----------
    facts
        Whatever is known, by the keys of the notice: ``run_id``, ``name``, ``metrics``...
    status, reason
        How it ended, and why so; an exception decides, if one ends it.
    nothing
        Whether nothing is to be told after all.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    status: str = FINISHED
    reason: str = ""
    nothing: bool = False


@contextmanager
def telling(settings: NotifyConfig, kind: str, command: str) -> Iterator[Told]:
    """Tell how the block ended, once it has: around what closes the run.

    Parameters
    ----------
    kind
        ``run`` or ``sweep``.
    command
        What started it.

    Raises
    ------
    GluonexpError
        Somebody is to be told, and nobody is named; that is found before the block begins.
    """
    if settings.webhook == "" and not settings.command:
        raise GluonexpError(
            "callbacks=notify: nobody is named; export GLUONEXP_WEBHOOK=https://..., or give "
            "notify.command=[PROGRAM,ARGUMENT]"
        )
    told, began, process = Told(), time.monotonic(), getpid()
    try:
        yield told
    except Exception as error:
        told.status = FAILED
        told.reason = sentence(error) or f"{type(error).__name__}: {error}".rstrip(": ")
        raise
    except BaseException as error:
        told.status, told.reason = KILLED, _interruption(error)
        raise
    finally:
        wanted = settings.webhook or settings.command
        told.nothing |= getpid() != process  # a fork has left the block
        if wanted and not told.nothing and told.status.lower() in settings.when:
            seconds = time.monotonic() - began
            with suppress(Exception):  # a failure of ours costs a warning at most
                _send(settings, _notice(told, kind, command, seconds))


def _interruption(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by Ctrl-C"
    if (signum := getattr(error, "signum", None)) is not None:
        return f"ended by {signal.Signals(signum).name}"
    return str(getattr(error, "reason", "")) or "interrupted"


def _notice(told: Told, kind: str, command: str, seconds: float) -> dict[str, Any]:
    notice = {
        "kind": kind,
        **dict.fromkeys(("run_id", "name", "experiment")),
        "status": told.status,
        "reason": told.reason[:_LONGEST],
        **dict.fromkeys(("objective", "objective_metric")),
        "metrics": {},
        "link": None,
        "host": socket.gethostname(),
        "command": command,
        "seconds": round(seconds, 3),
        **told.facts,
    }
    notice = plain(hidden(notice))
    return {"text": _text(notice), **notice}


def _text(notice: Mapping[str, Any]) -> str:
    """Say it in a line or two."""
    known = f" ({notice['run_id'][:8]})" if notice["run_id"] else ""
    title = f"{notice['name'] or notice['kind']}{known}"
    parts = [f"{title} {notice['status']} after {duration(notice['seconds'])}"]
    if notice["reason"]:
        parts.append(f": {notice['reason']}")
    if notice["objective"] is not None:
        parts.append(f"; {notice['objective_metric']} {digits(notice['objective'])}")
    if notice["link"]:
        parts.append(f"\n{notice['link']}")
    return "".join(parts)


def _send(settings: NotifyConfig, notice: Mapping[str, Any]) -> None:
    body = json.dumps(notice, ensure_ascii=False, allow_nan=False).encode()
    problems = []
    if settings.webhook:
        where = f"notify.webhook ({urlsplit(settings.webhook).hostname})"
        problems.append((where, _post(settings.webhook, body, settings.timeout_s)))
    if settings.command:
        where = f"notify.command ({settings.command[0]})"
        problems.append((where, _run(settings.command, body, settings.timeout_s)))
    for where, problem in problems:
        if problem is not None:
            say(escaped(f"warning: nobody was told of the end: {where} {problem}"))


def _post(url: str, body: bytes, timeout_s: float) -> str | None:
    """Return why a webhook has not taken it; None if it has. The address is not said: see there.

    The thread bounds the time as a whole; each wait of a request has its own limit.
    """
    import requests

    ended: list[str | None] = []

    def post() -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        try:
            with requests.post(
                url, body, headers=kind, timeout=timeout_s, allow_redirects=False, stream=True
            ) as answer:
                good = answer.status_code < 300
                ended.append(None if good else f"has answered {answer.status_code}")
        except requests.Timeout:
            pass
        except (requests.RequestException, ValueError, OSError) as error:
            ended.append(f"cannot be reached ({type(error).__name__})")

    thread = threading.Thread(target=post, name="notify", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return ended[0] if ended else f"has not answered in {timeout_s:g} s"


def _run(command: list[str], body: bytes, timeout_s: float) -> str | None:
    """Return why a command has not taken it; None if it has. No shell reads it."""
    with tempfile.TemporaryFile() as output:  # a pipe would be waited for
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"cannot be run: {getattr(error, 'strerror', None) or error}"
        try:
            process.communicate(body, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return f"has not ended in {timeout_s:g} s, and was killed"
        finally:
            if process.poll() is None:
                with suppress(OSError):
                    killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not process.returncode:
            return None
        output.seek(0)
        said = str(hidden(output.read(1 << 16).decode("utf-8", "replace").strip()))
        return f"has failed ({process.returncode}): {said[-_SHOWN:]}"
