"""Secrets are kept out of what is printed and written: each is replaced by `[secret: …]`, which names its kind.

A secret is known by its value, where a variable of the environment holds it under a telling name; by the name that
stands before it; or by its shape, such as a token's prefix or the password in a URL.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache, partial
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote

_SHORTEST = 8
_SHORTEST_WORD = 16
_NO_BOUNDARY_FROM = 16

_NAME = (
    r"SECRET|TOKEN(?!IZ)|PASSW|PASSPHRASE|CREDENTIAL|(?:API|ACCESS|PRIVATE|ACCOUNT|SIGNING|ENCRYPTION)_?KEY|COOKIE"
    r"|WEBHOOK|DATABASE_UR[LI]|CONNECTION_?STR|AUTH_?(?:STRING|HEADER|KEY|DATA)"
    r"|(?:^|_)(?:SSHPASS|PASS|PWD|PW|PAT|DSN|AUTH|SESSION|KEY|SK|JWT|SAS|SIG|SIGNATURE|CREDS?|HMAC|BEARER|PEM)\d*$"
    r"|^AUTHORIZATION$|(?:^|_)MASTER_?KEY$|(?:SLACK|TEAMS|DISCORD|MATTERMOST)_(?:URL|HOOK)$|(?:^|_)[TH]?OTP(?:_|$)"
)
_PLAIN_NAME = r"^(?:PWD|OLDPWD|PATH)$|_(?:FILE|PATH|DIR|SOCK)$|^(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK)_"
_STRONG_NAME = (  # of a table's entry, or before a colon: `key`, `auth` and `session` are words of texts, too
    r"SECRET|TOKEN$|PASSW|PASSPHRASE|CREDENTIALS?$|(?:API|ACCESS|PRIVATE|ACCOUNT|ENCRYPTION)_?KEY(?:_?ID)?$"
    r"|(?:^|_)(?:DB_?PASS|PWD)$|CONNECTION_?STRING|AUTH_?STRING|WEBHOOK_?URL|DATABASE_UR[LI]"
)
_WORDS_OF_NAMES = (
    r"secret|token|pass|credential|key|cookie|webhook|database|connection|auth|pwd|pat|dsn|session|jwt|sas|sig"
)

_PLACEHOLDER = re.compile(r"\$\{?\w+\}?|\$\(.*|%\w+%|<[^<>]*>|\{.*\}|….*|\w{0,8}\*{3,}\w{0,8}", re.DOTALL)
_URL_WITH_PASSWORD = re.compile(r"(?:[\w+.-]+://)?[^/\s:@]*:(?P<password>.+)@(?:[\w.-]+|\[[\w:]+\])(?::\d+)?(?:/.*)?")
_USER_AND_PASSWORD = re.compile(r"[\w.@+-]+:(?P<password>(?!//).+)", re.DOTALL)
_CODE = re.compile(r"[\w.]*[\w\])][(\[)].*|[A-Z]+(?:_[A-Z]+)+|[A-Za-z_]+(?:\.[A-Za-z_]+)+")  # in a traceback

_NAMES_END = re.compile(r"[\w.-]+\Z")  # a name's part before the word that tells

_LABELS = ("AWS key", "hub token", "git token", "token", "key", "webhook", "header")
_HIDDEN = "…"  # in the query of a URL, which stays one


def without_secrets(value: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Return a JSON value without the secrets of the environment, and without what has a known secret's shape.

    Doing it again changes nothing. Values of any other type stay as they are.

    Args:
        value: text, or a tree of tables and lists.
        environment: whose secrets are looked for; this process's own if not given.
    """
    known = _known_secrets(os.environ if environment is None else environment)
    done: dict[str, str] = {}

    def text(content: str) -> str:
        if content not in done:
            done[content] = _cleaned(content, known)
        return done[content]

    root = [value]
    waiting: list[dict[Any, Any] | list[Any]] = [root]
    while waiting:  # without recursion, for a tree may be deep
        place = waiting.pop()
        for key, content in list(place.items() if isinstance(place, dict) else enumerate(place)):
            match content:
                case str():
                    place[key] = _named(key, text(content)) if isinstance(place, dict) else text(content)
                case dict():
                    place[key] = _with_keys(content, text)
                    waiting.append(place[key])
                case list() | tuple():
                    place[key] = list(content)
                    waiting.append(place[key])
                case _:
                    pass
    return root[0]


def lines_without_secrets(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without secrets; of a private key, which has several, the first alone says that one was there."""
    within = False
    for line in lines:
        if within:
            within = "-----END" not in line
            continue
        within = "PRIVATE KEY" in line and "-----BEGIN" in line and "-----END" not in line
        yield without_secrets(line)


def kind_of_secret(text: str, clean: str) -> str:
    """Say what kind of secret a text held that is clean now."""
    labels = [match[1] for match in _label().finditer(clean) if match[0] not in text]
    return labels[0] if labels else "a user, a password or a signature in a URL"


def print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unforeseen error as Python does (it is a `sys.excepthook`), without secrets."""
    print(without_secrets("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


class _Known(NamedTuple):
    """A form in which a secret of the environment may stand, and what finds it."""

    form: str
    pattern: re.Pattern[str]
    label: str


def _known_secrets(environment: Mapping[str, str]) -> list[_Known]:
    """Return the secrets of an environment in every form, the longest first: one may be part of another."""
    found: dict[str, str] = {}
    for name, content in environment.items():
        for part in _secret_parts(name, content):
            if _is_telling(part):
                for form in _forms(part):
                    found.setdefault(form, _label_of(name))
    return [_Known(form, _finding(form), label) for form, label in sorted(found.items(), key=lambda one: -len(one[0]))]


def _secret_parts(name: str, content: str) -> Iterator[str]:
    """Yield what of a variable is secret: all of it by its name, or the password of a URL.

    Around it may be spaces, a line's end or quotes, which whoever uses it drops. Of several lines each counts, since
    logs come line by line; of a JSON document what its entries' names tell.
    """
    content = content.strip()
    if _is_secret_name(name) and not ("/" in content and os.path.exists(content)):  # noqa: PTH110  any text may come
        yield from {content, content.strip("\"'")}
        yield from _entries_of(content) if content.startswith("{") else map(str.strip, content.splitlines())
        if match := _USER_AND_PASSWORD.fullmatch(content):
            yield match["password"]
    if "@" in content and (match := _URL_WITH_PASSWORD.fullmatch(content)):
        yield from {match["password"], unquote(match["password"])}
    for user in _user_of_url().finditer(content) if "://" in content else ():
        name, colon, password = user[0].removesuffix("@").partition(":")
        secret = password if colon else name
        yield from {secret, unquote(secret)}


def _entries_of(content: str) -> Iterator[str]:
    """Yield the entries of a JSON table that are secret by their names, and each line of them."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError):
        return
    for key, entry in table.items() if isinstance(table, dict) else ():
        if isinstance(entry, str) and _is_secret_name(key):
            yield from {entry, *entry.splitlines()}


def _forms(secret: str) -> set[str]:
    """Return a secret as it is, and as URLs, JSON, Python, HTML and base64 have it."""
    encoded = secret.encode("utf-8", "surrogateescape")
    quoted = {quote(encoded, safe=""), quote(encoded), quote_plus(encoded)}
    lower = {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in quoted}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    doubled = {json.dumps(form)[1:-1] for form in escaped}
    others = {html.escape(secret), html.escape(secret, quote=False), base64.b64encode(encoded).decode()}
    return {secret, *quoted, *lower, *escaped, *doubled, *others}


@lru_cache(4096)
def _finding(form: str) -> re.Pattern[str]:
    """Find a secret where it stands as a word; a long one that is no word, within others too."""
    pattern = re.escape(form)
    if len(form) >= _NO_BOUNDARY_FROM and not form.isalpha():
        return re.compile(pattern)
    before = _begin(r"\w") if re.match(r"\w", form) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", form) else ""
    return re.compile(before + pattern + after)


def _is_telling(value: str) -> bool:
    """Say whether a value is long and varied enough to be a secret and not a word, a number or a placeholder."""
    value = value.strip()
    if len(value) < _SHORTEST or len(set(value)) < 5 or _PLACEHOLDER.fullmatch(value):
        return False
    if re.fullmatch(r"[A-Za-z]+\d{0,4}", value) and not re.search(r"[a-z][A-Z].*[a-z][A-Z]", value):
        return len(value) >= _SHORTEST_WORD
    return not value.isdecimal() or len(value) >= 12


@lru_cache(4096)
def _is_secret_name(name: str) -> bool:
    words = _words(name)
    return re.search(_NAME, words) is not None and re.search(_PLAIN_NAME, words) is None


@lru_cache(4096)
def _is_strong_name(name: str) -> bool:
    words = _words(name)
    return re.search(_STRONG_NAME, words) is not None and re.search(_PLAIN_NAME, words) is None


@lru_cache(4096)
def _words(name: str) -> str:
    """Write a name as a variable's: `accountKey`, `account-key` and `account.key` are ACCOUNT_KEY."""
    return re.sub(r"[^A-Za-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).upper()


def _label_of(name: str) -> str:
    return f"[secret: {_words(name)[:60].strip('_') or 'VALUE'}]"


@cache
def _label() -> re.Pattern[str]:
    fixed = "|".join(_LABELS)
    return re.compile(rf"\[secret: ({fixed}|(?!(?:AKIA|ASIA))[A-Z0-9][A-Z0-9_]{{0,60}})\]")


def _with_keys(table: dict[Any, Any], text: Callable[[str], str]) -> dict[Any, Any]:
    """Copy a table with clean keys; none is lost where two become the same."""
    copy: dict[Any, Any] = {}
    numbers: dict[Any, int] = {}
    for key, content in table.items():
        clean = base = text(key) if isinstance(key, str) else key
        while clean in copy:
            numbers[base] = numbers.get(base, 1) + 1
            clean = f"{base} ({numbers[base]})"
        copy[clean] = content
    return copy


def _named(key: Any, clean: str) -> str:
    """Return a table's clean text, or what stands for it if the entry's name says that it is a secret."""
    if not isinstance(key, str) or _label().search(key) or _label().search(clean):
        return clean
    return _label_of(key) if _is_strong_name(key) and _is_telling(clean) else clean


def _cleaned(text: str, known: list[_Known]) -> str:
    """Clean a text until nothing is left to do; what stands for a secret is not looked into."""
    while (after := _cleaned_around_labels(text, known)) != text:
        text = after
    return text


def _cleaned_around_labels(text: str, known: list[_Known]) -> str:
    if "[secret: " not in text:
        return _cleaned_once(text, known)
    labels = [match[0] for match in _label().finditer(text)]
    clean = [_cleaned_once(piece, known) for piece in _label().split(text)[::2]]  # every second one is a label's word
    return "".join(part for pair in zip(clean, [*labels, ""], strict=True) for part in pair)


def _cleaned_once(text: str, known: list[_Known]) -> str:
    if len(text) < _SHORTEST:
        return text
    for shape in _shapes():
        if shape.hint(text):
            text = shape.pattern.sub(shape.instead, text)
    if _token_hint().search(text):
        for label, pattern in _tokens():
            text = pattern.sub(label, text)
    for secret in known:
        if secret.form in text:
            text = secret.pattern.sub(secret.label, text)
    return text


class _Shape(NamedTuple):
    """What a secret looks like.

    Attributes:
        hint: a quick look whether it can stand in a text at all.
        pattern: what finds it; it looks no further than a bound before it can fail, so that time grows with the text.
        instead: what takes its place.
    """

    hint: Callable[[str], bool]
    pattern: re.Pattern[str]
    instead: str | Callable[[re.Match[str]], str]


def _begin(characters: str) -> str:
    """Match where a word begins, also after an escape of JSON, of a URL or of a terminal."""
    return (
        rf"(?:(?<![{characters}])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{{4}})|(?<=%[0-9A-Fa-f]{{2}})"
        r"|(?<=\[[0-9]m)|(?<=\[[0-9]{2}m))"
    )


@cache
def _user_of_url() -> re.Pattern[str]:
    """Find user and password of a URL. A host with a port is none; what stands after a path's `@` may be a commit.

    The hub's `hf://name@revision` has no user.
    """
    host = r"(?![0-9a-f]{40}\b)(?:\[[0-9a-fA-F:]+\]|[\w.-]*)(?![\w@])"
    return re.compile(
        r"(?<=://)(?:"
        r"(?!(?:localhost|[\w-]+(?:\.[\w-]+)+|\[[0-9a-fA-F:]+\]):\d{1,5}(?:[/?#\s\"'<>]|\Z))"
        rf"[^/\s:@?#\"'<>]*:(?:(?!://)[^\s\"'<>])*@(?={host})|(?<!hf://)[^/\s@?#\"'<>]*@)+"
    )


_TOKENS = (
    ("AWS key", r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Z])"),
    ("hub token", r"(?:hf_|api_org_)[A-Za-z0-9]{20,}"),
    ("git token", r"(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{20,}"),
    ("git token", r"gl(?:pat|dt|rt|soat|ptt|ft|imt|agent|cbt|oas|ffct)-[\w.-]{16,}"),
    ("token", r"xox[abeoprs]-[\w.-]{10,}|xapp-\d-[\w-]{10,}"),
    ("token", r"sk-(?=[\w-]{0,60}\d)[\w-]{20,}|sk-ant-[\w-]{10,}"),
    ("token", r"wandb_v\d_\w{20,}|gsk_[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{30,}"),
    ("token", r"AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"),
    ("token", r"eyJ[\w-]{8,600}+\.[\w-]{8,}+\.[\w-]*"),
    ("token", r"npm_[A-Za-z0-9]{30,}|pypi-(?=[\w-]{0,60}\d)(?=[\w-]{0,60}[A-Z])[\w-]{16,}"),
    ("token", r"[srp]k_(?:live|test)_[0-9A-Za-z]{10,}|whsec_[\w+/=]{20,}"),
    ("token", r"SG\.[\w-]{16,}\.[\w-]{16,}|do[opr]_v1_[a-f0-9]{64}"),
    ("key", r"AGE-SECRET-KEY-1[A-Z0-9]{40,}"),
    ("token", r"pn[ub]_[A-Za-z0-9]{30,}|dckr_(?:pat|oat)_[\w-]{20,}|dapi[a-f0-9]{32}"),
)


@cache
def _tokens() -> list[tuple[str, re.Pattern[str]]]:
    return [(f"[secret: {label}]", re.compile(_begin("A-Za-z0-9") + f"(?:{pattern})")) for label, pattern in _TOKENS]


@cache
def _token_hint() -> re.Pattern[str]:
    """Match where any token may begin, by its first letters: most texts hold none."""
    return re.compile(
        "AKIA|ASIA|ABIA|ACCA|hf_|api_org_|gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox|xapp-|sk-|wandb_v|gsk_|r8_|AIza|ya29|"
        "GOCSPX-|AGE-SECRET|eyJ|npm_|pypi-|[srp]k_(?:live|test)_|whsec_|SG\\.|do[opr]_v1_|pn[ub]_|dckr_|dapi"
    )


@cache
def _shapes() -> tuple[_Shape, ...]:
    def has(*parts: str) -> Callable[[str], bool]:
        return lambda text: any(part in text for part in parts)

    def has_any_case(*parts: str) -> Callable[[str], bool]:
        return lambda text: any(part in lower for lower in [text.lower()] for part in parts)

    def token(label: str, pattern: str, *hints: str, characters: str = "A-Za-z0-9") -> _Shape:
        return _Shape(has(*hints), re.compile(_begin(characters) + f"(?:{pattern})"), f"[secret: {label}]")

    sign = r"(?:\\[^\"'\s]|,(?=\S)|[^\s\"'\\,;&<>])"
    value = rf"(?!\[secret: ){sign}{{6,}}+"
    quoted = r"(?<=[\"'])(?!\[secret: )(?:\\[^\"']|[^\"'\\\r\n]){6,}+"
    space = r"(?: |%20|\+)"
    bytes_too = r"(?:b(?=[\\\"']))?"
    return (
        _Shape(
            has("PRIVATE"),
            re.compile(
                rf"-----BEGIN{space}[A-Z0-9 %+]*PRIVATE{space}KEY.*?(?:-----END[A-Z0-9 %+]*(?:-----)?|\Z)", re.DOTALL
            ),
            "[secret: key]",
        ),
        _Shape(
            has("://"),
            _user_of_url(),
            "",
        ),
        _Shape(
            has("%40"),
            re.compile(
                r"(?<=%3A%2F%2F)[^\s\"'<>&%]*%3A(?:(?!%3A%2F%2F)[^\s\"'<>&])*%40(?=[\w.-]+)|(?<=%3A%2F%2F)(?:[^\s\"'<>&%]*%40)+",
                re.I,
            ),
            "",
        ),
        _Shape(has("="), re.compile(r"([?&;#])([\w.\-\[\]%]+)=([^&\s\"'<>;#]+)"), _query),
        _Shape(
            has("%3D", "%3d"),
            re.compile(r"(?i)(%3F|%26)([\w.-]+)%3D((?:(?!%26)[^&\s\"'<>;#])+)"),
            _query,
        ),
        token("webhook", r"(?<=webhook\.office\.com)/[\w/@-]+", "webhook.office.com", characters="/"),
        token("token", r"(?<=/bot)\d{6,12}:[\w-]{30,}", "/bot", characters="-"),
        _Shape(
            has("@"),
            re.compile(
                r"(?<![\w:.@+-])((?!mailto:)[\w.+-]{1,100}:)([^\s@/\"'<>]{6,200})@"
                r"(?=(?:[\w-]+(?:\.[\w-]+)+|localhost)(?![\w@])|[\w-]+:\d{1,5}(?!\w))"
            ),
            _password_of_user,
        ),
        _Shape(
            has("-u", "-auth"),
            re.compile(r"(?<!\S)((?:-u|--user|--auth|--proxy-user)(?:\s|=)[\"']?[\w.@+-]+:)([^\s\"']{6,})"),
            _password_of_user,
        ),
        _Shape(has("</"), re.compile(r"<([\w:.-]{3,60})>([^<>\s]{6,4096})(?=</)"), _element),
        token("webhook", r"(?<=hooks\.slack\.com)(?:/|%2F)[\w/%.-]+", "hooks.slack.com", characters="/"),
        token("webhook", r"(?<=/api/webhooks/)\d+/[\w-]+", "/api/webhooks/", characters=r"\w-"),
        _Shape(
            has_any_case("basic"),
            re.compile(r"(?i)(?<![A-Za-z0-9])(basic(?:\s{1,3}|%20|\+))([A-Za-z0-9+/_-]{6,}={0,2})"),
            _basic,
        ),
        _Shape(
            has("auth"),
            re.compile(r"(?<=[\"'])(auth[\\\"']{1,4}\s{0,3}:\s{0,3}[\\\"']{1,4})([A-Za-z0-9+/_-]{6,}={0,2})"),
            _basic,
        ),
        _Shape(
            has_any_case("digest"),
            re.compile(r"(?i)(?<![A-Za-z0-9])(digest\s{1,3})(\w+=(?=[^\r\n]{0,1000}response=)[^\r\n]+)"),
            r"\1[secret: header]",
        ),
        _Shape(
            has_any_case("bearer"),
            re.compile(rf"(?i)(?<![A-Za-z0-9])(bearer(?:\s{{1,3}}|%20|\+))({value})"),
            partial(_hidden, 2),
        ),
        _Shape(
            has_any_case("authorization"),
            re.compile(
                rf"(?i)(authorization[\\\"']{{0,4}}\s{{0,3}}(?:[:=]|(?<=[\"']),)\s{{0,3}}{bytes_too}[\\\"']{{0,4}}"
                rf"(?:[a-z]+\s+)?)({value})"
            ),
            partial(_hidden, 2),
        ),
        _Shape(
            has_any_case("cookie"),
            re.compile(
                r"(?i)(?<![A-Za-z0-9])((?:set-)?cookie[\\\"']{0,4}\s{0,3}:\s{0,3}[\\\"']{0,4})([\w.%-]+=[^\r\n\"'\\]+)"
            ),
            r"\1[secret: header]",
        ),
        _Shape(
            has_any_case("password", "login"),
            re.compile(r"(?i)(\blogin\s{1,9}\S+\s{1,9}password\s{1,9})(\S+)"),
            partial(_hidden, 2),
        ),
        _Shape(
            has_any_case("api key"),
            re.compile(rf"(?i)(\bapi key(?: provided)?\s{{0,2}}[:=]\s{{0,2}}[\"']?)({value})"),
            partial(_hidden, 2),
        ),
        _Shape(
            has_any_case("passw", "passphrase"),
            re.compile(r"(?im)^([ \t]{0,8}(?:password|passphrase)[ \t]{0,3}=[ \t]{0,3})(\w+(?:[ -]\w+){2,20})[ \t]*$"),
            r"\1[secret: PASSWORD]",
        ),
        _Shape(has("--"), re.compile(rf"(?i)(?<!\S)(--?([\w-]+)(?:\s{{1,3}}|=)[\\\"']{{0,4}})({value})"), _option),
        _Shape(
            has_any_case(*_WORDS_OF_NAMES.split("|")),
            re.compile(
                rf"(?i)((?:{_WORDS_OF_NAMES})[\w.-]{{0,40}})([\\\"']{{0,4}}\s{{0,3}}([=:])\s{{0,3}}{bytes_too}[\\\"']{{0,4}})"
                rf"({quoted}|{value})"
            ),
            _assigned,
        ),
    )


def _hidden(group: int, match: re.Match[str]) -> str:
    return f"{match[1]}[secret: header]" if _is_telling(match[group]) else match[0]


def _basic(match: re.Match[str]) -> str:
    """Hide what says user and password in base64, which most words do not."""
    padded = match[2].rstrip("=") + "=" * (-len(match[2].rstrip("=")) % 4)
    try:
        says = base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True).decode()
    except (binascii.Error, ValueError):
        return match[0]
    return f"{match[1]}[secret: header]" if ":" in says and says.strip().isprintable() else match[0]


def _password_of_user(match: re.Match[str]) -> str:
    end = match[0][match.end(2) - match.start() :]
    return f"{match[1]}[secret: PASSWORD]{end}" if _is_telling(match[2]) else match[0]


def _element(match: re.Match[str]) -> str:
    """Hide the content of an XML element by its name."""
    return f"<{match[1]}>{_label_of(match[1])}" if _is_strong_name(match[1]) and _is_telling(match[2]) else match[0]


def _query(match: re.Match[str]) -> str:
    before, name, value = match.groups()
    if before in ";#" and not _is_telling(value):  # where texts have them, too
        return match[0]
    equals = "=" if len(before) == 1 else "%3D"
    return f"{before}{name}{equals}{_HIDDEN}" if _is_secret_name(unquote(name)) and value != _HIDDEN else match[0]


def _option(match: re.Match[str]) -> str:
    name, value = match[2], match[3]
    return f"{match[1]}{_label_of(name)}" if _is_strong_name(name) and _is_telling(value) else match[0]


def _assigned(match: re.Match[str]) -> str:
    """Hide what follows a secret's name: `DB_PASS=…`, `"password": "…"`."""
    end, between, sign, value = match.groups()
    start = match.start()
    begin = _NAMES_END.search(match.string, max(0, start - 60), start)
    name = (begin[0] if begin else "") + end
    if not _is_telling(value) or (_CODE.fullmatch(value) and not _is_strong_name(name)):
        return match[0]
    if sign == "=" or name.isupper():
        secret = _is_secret_name(name)
    else:  # in prose a colon ends many a sentence about secrets
        sure = between[-1] in "\"'" or len(value) >= 20 or re.search(r"\d|[a-z][A-Z]", value) is not None
        secret = sure and _is_strong_name(name)
    return f"{end}{between}{_label_of(name)}" if secret else match[0]
