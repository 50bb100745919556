"""Passwords, tokens and keys: none of them is written into a record.

A value is hidden where its name says what it is (``password``, ``hf_token``, ``aws_access_key``),
where its form does (an address with a password, a token of a well-known service, a private key),
and where it is the value of an environment variable that has such a name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

HIDDEN: Final = "***"

# Endings of names, of which each word is separated by _.
_NAME: Final = re.compile(
    r"(?:(?:password|passwd|passphrase|secret|credential)s?|token|apikey|connection_string"
    r"|webhook(?:_url)?"
    r"|(?:^|_)authorization"
    r"|(?:^|_)(?:access|account|api|auth|encryption|license|private|secret|shared|signing|ssh)_key"
    r"|_pwd)_?\d*$"
)
# Other names that are used for the environment.
_ENVIRONMENT: Final = re.compile(r"(?:^|_)PASS$")
_SHORTEST: Final = 8  # characters; a shorter value of a variable would be found everywhere

# ``//user:password@host``. The password of a database may hold a slash, an address of the web
# has one before many an ``@``.
_ADDRESS: Final = re.compile(
    r"://(?![^/\s:@]{0,200}:\*\*\*@)"
    r"(?:[^/\s'\"<>]{1,400}|(?<!http://)(?<!https://)[^/\s'\"<>@:]{0,200}:[^\s'\"<>]{1,200})@"
)
_SIGNED: Final = re.compile(
    r"(?i)([?&](?:sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token))=)[^&\s'\"]+"
)
# Addresses of webhooks: whoever has one may post there.
_WEBHOOK: Final = re.compile(
    r"(https://(?:hooks\.slack\.com/(?:services|workflows|triggers)"
    r"|(?:\w+\.)?discord(?:app)?\.com/api/webhooks|[\w.-]+\.webhook\.office\.com/webhookb2)/)"
    r"[^\s'\"<>]+"
)
# Forms that services give to their tokens so that they are found: AWS, GitHub, GitLab, Hugging
# Face, OpenAI, Slack, Google, Databricks, PyPI; JSON Web Tokens; those in a header.
_FORMS: Final = re.compile(
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|sk-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35}|dapi[0-9a-f]{32}"
    r"|pypi-[\w-]{50,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
    r"|(?<=\bBearer )[\w.~+/-]{8,}=*|(?<=\bBasic )[\w.~+/-]{8,}=*"
)
_PRIVATE: Final = re.compile(
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)(?:[\s+-]*[A-Za-z0-9+/=]{4,}(?:\\n)?)*"
)

_ASSIGNED: Final = re.compile(
    r"(?<![\w.])([A-Za-z_][\w.-]{0,99})\\?[\"']?\]?[ \t]*(:=|=>?|:)(?!=)[ \t]*"
)
_ANNOTATED: Final = re.compile(r"[\w.\[\]| ]{1,60}=[ \t]*")  # a type, after the colon
_ITEM: Final = re.compile(r"([+~-]*([A-Za-z_][\w.@/-]*)=)(.*)", re.DOTALL)
_QUOTED: Final = re.compile(r"[a-zA-Z]{0,2}(\\?[\"'])(.+?)\1")
_WORD: Final = re.compile(r"()([^\s\"'&,;|)}\]]+)")
_LINE: Final = re.compile(r"()([^\s\"'][^\n]*)")
# What stands for a value, and no secret.
_NO_VALUE: Final = re.compile(r"(?i)null|none|true|false|\?\?\?|\*\*\*|\$.*|[%{]{2}.*|!vault.*")
# Files whose bare words are code or sentences, where a secret can only stand in quotes.
_CODE: Final = re.compile(
    r"(?i)\.(?:py[ix]?|c|cc|cpp|cu|h|hpp|java|[jt]sx?|go|rs|rb?|php|jl|scala|md|rst|txt|tex|html|css)"
)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Say whether a key, an option or a variable of this name holds a secret."""
    last = name.rpartition(".")[2].replace("-", "_")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last).lower()
    return bool(_NAME.search(words) or _ENVIRONMENT.search(last))


def hide(text: str) -> str:
    """Return a text with ``***`` in the place of each secret in it."""
    return _forms(_assignments(text, is_code=False, bare=False))


def hidden(value: Any, name: str = "") -> Any:
    """Return a value of plain Python with what is secret in it hidden; mappings are copied.

    Numbers are hidden only where the name is that of a secret, true, false and None never.

    Parameters
    ----------
    name
        Of the key that has the value.
    """
    if isinstance(value, Mapping):
        return {
            key: hidden(inner, name if is_secret(name) else str(key))
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [hidden(inner, name) for inner in value]
    if is_secret(name) and isinstance(value, str | int | float) and not isinstance(value, bool):
        is_known = isinstance(value, str) and (not value or _NO_VALUE.fullmatch(value))
        return value if is_known else HIDDEN
    return _hidden_word(value) if isinstance(value, str) else value


def hidden_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, secrets hidden: ``key=value`` and ``--option value``."""
    befores = ["", *words]
    return [
        HIDDEN if before.startswith("--") and is_secret(before[2:]) else _hidden_word(word)
        for before, word in zip(befores, words, strict=False)
    ]


def _hidden_word(word: str) -> str:
    item = _ITEM.fullmatch(word)
    return item[1] + str(hidden(item[3], item[2])) if item and is_secret(item[2]) else hide(word)


def hidden_diff(diff: str) -> str:
    """Return a diff of git with the secrets in it hidden.

    In a program only what stands in quotes can be one; in a file of settings also a bare word.
    """
    files = re.split(r"(?m)^(?=diff --git )", diff)
    return _forms("".join(_hidden_file(part) for part in files))


def _hidden_file(diff: str) -> str:
    name = PurePath(diff.partition("\n")[0].rpartition(" b/")[2].strip('"'))
    return _assignments(diff, is_code=bool(_CODE.fullmatch(name.suffix)), bare=True)


def _assignments(text: str, *, is_code: bool, bare: bool) -> str:
    """Hide what is assigned to the name of a secret.

    Without `bare`, a text is a message or a command: ``name=word`` and quoted values are hidden.
    """
    pieces: list[str] = []
    end = 0
    for found in _ASSIGNED.finditer(text):
        if found.start() < end or not is_secret(found[1]):
            continue
        start = found.end()
        if is_code and (annotation := _ANNOTATED.match(text, start)):
            start = annotation.end()
        value = _QUOTED.match(text, start)
        if value is None and not is_code:
            if found[2] != ":" or _in_braces(text, found.start()):
                value = _WORD.match(text, start)
            elif bare:
                value = _LINE.match(text, start)
        if value is None or _NO_VALUE.fullmatch(value[2]):
            continue
        pieces += [text[end : value.start(2)], HIDDEN]
        end = value.end(2)
    return "".join([*pieces, text[end:]])


def _in_braces(text: str, start: int) -> bool:
    """Say whether a key stands in a mapping like ``{user: me, password: ...}``."""
    return text[max(0, start - 20) : start].rstrip(" ")[-1:] in ("{", ",")


def _forms(text: str) -> str:
    text = _ADDRESS.sub(f"://{HIDDEN}@", text)
    text = _SIGNED.sub(rf"\1{HIDDEN}", text)
    text = _WEBHOOK.sub(rf"\1{HIDDEN}", text)
    text = _PRIVATE.sub(rf"\1{HIDDEN}", text)
    text = _FORMS.sub(HIDDEN, text)
    known = tuple(_of_environment())
    return _any_of(known).sub(HIDDEN, text) if known else text


def _of_environment() -> Iterator[str]:
    """Yield the secrets of this process's environment."""
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= _SHORTEST and not _NO_VALUE.fullmatch(value):
            yield value


@lru_cache(maxsize=8)
def _any_of(values: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds one of the values as a whole word, also as an address spells it."""
    spelled = sorted(
        {*values, *(quote(value, safe="") for value in values)}, key=len, reverse=True
    )
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, spelled))})(?!\w)")
