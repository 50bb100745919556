"""What is asked of a server, and what answering costs it."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import psutil
import requests


@dataclass
class Asked:
    """Requests of this process.

    Attributes
    ----------
    kinds, failed
        How many there were, by method and path, and those that were refused.
    answers
        How long each took, s.
    sent
        The bytes of their bodies.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    answers: list[float] = field(default_factory=list)
    sent: int = 0


def asked() -> Asked:
    """Return what is counted from now on."""
    counted, send, alone = Asked(), requests.Session.send, Lock()

    def counting(session: requests.Session, request: Any, **more: Any) -> requests.Response:
        start = time.perf_counter()
        answer = send(session, request, **more)
        path = re.sub(r"(mlflow-artifacts/artifacts)/.*", r"\1", request.path_url.split("?")[0])
        kind = f"{request.method} {re.sub('/[0-9a-f]{32}|/m-[0-9a-f]{32}', '/ID', path)}"
        with alone:
            counted.answers.append(time.perf_counter() - start)
            counted.sent += int(request.headers.get("Content-Length") or 0)
            counted.kinds[kind.replace("/api/2.0/", "")] += 1
            if not answer.ok:
                counted.failed[f"{answer.status_code} {kind}"] += 1
        return answer

    requests.Session.send = counting  # type: ignore[method-assign]
    return counted


def busy(pid: int) -> float:
    """Return how long process `pid` and those below it have computed until now, s."""
    total = 0.0
    whole = psutil.Process(pid)
    for process in (whole, *whole.children(recursive=True)):
        spent = process.cpu_times()
        total += spent.user + spent.system
        total += spent.children_user + spent.children_system  # of those that have ended
    return total
