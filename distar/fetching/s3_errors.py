"""What S3 and its client say, turned into errors of one line: which setting, and what to do."""

from __future__ import annotations

import os
import re

from distar.errors import StorageError
from distar.fetching.source import FileMissingError, TemporaryError
from distar.fetching.transport import AnswerError

_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_CHECKSUMS = (
    "a store that knows no checksums in headers needs AWS_REQUEST_CHECKSUM_CALCULATION=when_required and "
    "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required (docs/releases.md)"
)
_ANSWERS = {  # by what the store calls it, or by the status alone: a HEAD is answered without a name
    "NoSuchBucket": "there is no such bucket; check its name, or create it",
    "InvalidBucketName": "no bucket can have this name ({message}); check it",
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "401"),
        f"the store refuses the credentials ({{code}}); {_CREDENTIALS}",
    ),
    **dict.fromkeys(
        ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403"),
        "these credentials may not do this ({code}); docs/releases.md lists the permissions that are needed",
    ),
    **dict.fromkeys(
        ("RequestTimeTooSkewed", "RequestExpired"),
        "this machine's clock differs from the store's ({code}); set the clock and run again",
    ),
    **dict.fromkeys(
        (
            "PermanentRedirect",
            "TemporaryRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
            "301",
            "307",
            "308",
        ),
        "the bucket is in another region{region} ({code}: {message}); set AWS_DEFAULT_REGION, or the region of the "
        "profile, to the bucket's own",
    ),
    "407": "the proxy asks for credentials ({code}); correct HTTP_PROXY or HTTPS_PROXY, or name the store's host in "
    "NO_PROXY",
    **dict.fromkeys(
        ("SlowDown", "ServiceUnavailable", "TooManyRequests", "Throttling", "RequestLimitExceeded", "429", "503"),
        "the store is too busy ({code}, tried {tries} times); run again later, or let AWS_MAX_ATTEMPTS be larger",
    ),
    "InternalError": "the store fails ({code}: {message}, tried {tries} times); look at its log: a full one may say no "
    "more",
    **dict.fromkeys(  # botocore's name, too, for an answer that is no XML
        ("500", "502", "504"),
        "the store fails, or what answers is not S3 ({code}: {message}, tried {tries} times); look at its log, and "
        "check the endpoint",
    ),
    **dict.fromkeys(
        ("QuotaExceeded", "507"),
        "the store has no space left ({code}: {message}); free some and run again",
    ),
}
_NOT_UNDERSTOOD = {"400", "405", "411", "501"}
_FAILURES = {  # by the class of the client's exception, or the nearest of its bases
    "ProfileNotFound": "{text}; correct or unset AWS_PROFILE (profiles stand where AWS_CONFIG_FILE and "
    "AWS_SHARED_CREDENTIALS_FILE say)",
    "NoCredentialsError": f"there are no credentials for S3; {_CREDENTIALS}",
    "CredentialRetrievalError": "the credentials cannot be had ({text}); correct what {profile} gets them from",
    "SSOError": "the single sign-on has expired, or was never made ({text}); run `aws sso login` (with AWS_PROFILE, if "
    "that is set)",
    "TokenRetrievalError": "the single sign-on has expired ({text}); run `aws sso login` (with AWS_PROFILE, if that is "
    "set)",
    "LoginError": "the login has expired ({text}); run `aws login`",
    "InvalidRegionError": "{text} Set AWS_DEFAULT_REGION, or the region of the profile, to one such as us-east-1",
    "NoRegionError": "no region is set; set AWS_DEFAULT_REGION",
    "ConfigParseError": "{text}; correct that file, or let AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name others",
    "InvalidRetryConfigurationError": "{text} Set AWS_MAX_ATTEMPTS (max_attempts in the AWS config file) to 1 or more",
    "InvalidChecksumConfigError": "{text} Correct AWS_REQUEST_CHECKSUM_CALCULATION or AWS_RESPONSE_CHECKSUM_VALIDATION",
    "ProxyConnectionError": "the proxy refuses, or cannot be reached; correct {proxies}, or name the store's host in "
    "NO_PROXY",
    "InvalidProxiesConfigError": "the settings of the proxy are wrong; correct {proxies}",
    "ParamValidationError": "{text}; check the name of the bucket",
    "RecursionError": "{where} redirects without end: the bucket is in another region; set AWS_DEFAULT_REGION, or the "
    "region of the profile, to the bucket's own",
    "ResponseParserError": "{where} answers what is not S3 ({text}); {name} must name an S3 store",
    "ReadTimeoutError": "{where} is silent ({text}); run again later, or check {name}",
    "ConnectionClosedError": "{where} breaks the connection off ({text}); run again later, or check scheme (http or "
    "https) and port of {name}",
    "ConnectionError": "{where} cannot be reached ({text}); check {name}, and the network",
    "HTTPClientError": "{where} does not answer as S3 does ({text}); check scheme (http or https) and port of {name}",
}
_BROKEN = {"IncompleteReadError", "ReadTimeoutError", "ResponseStreamingError", "FlexibleChecksumError"}
_LONGEST = 300
_SHORTEST = 4
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "publish.endpoint_url")
_URL = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[^/\[\]])")
_NO_ANSWERS_OF_S3 = {"ListObjectsV2": {"404", "NoSuchKey"}, "GetObject": {"404"}}  # a HEAD's 404 never has a name
_STATUS = re.compile(r"its program ended with the status -?\d+")
_PROXY = re.compile("(http|https|all)_proxy", re.IGNORECASE)
_SETTING = re.compile("(?!AWS_.*(KEY|KEY_ID|TOKEN)$)AWS_.*|(http|https|all|no)_proxy|REQUESTS_CA_BUNDLE", re.IGNORECASE)


class ConditionError(StorageError):
    """The store refuses a write because its condition does not hold."""


class ConflictError(StorageError):
    """The store keeps refusing a write because of others, it says."""


class RangeError(StorageError):
    """The object ends before the byte from which it was to be read."""


class NotUnderstoodError(StorageError):
    """The store does not understand the request: it lacks something that others have."""


def s3_error(
    error: Exception, url: str, endpoint_url: str | None = None, where: str = "S3", reading: bool = False
) -> Exception:
    """Turn what went wrong into an error with a remedy.

    Args:
        error: what S3's client raised while it was made, or asked.
        url: what was asked for.
        endpoint_url: where S3 is, if a parameter says so.
        where: whom the client asks.
        reading: whether an object's content was being read, so that a broken connection may be taken up again.

    Returns:
        FileMissingError: there is no such object.
        ConditionError, ConflictError, RangeError, NotUnderstoodError: as they say.
        TemporaryError: the connection broke while an object was read. StorageError: all else.
    """
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _answered(error, url, endpoint_url, _without_user(where))
    if isinstance(error, AnswerError):
        return StorageError(f"{url}: {error}")
    kinds = [kind.__name__ for kind in type(error).__mro__]
    text = _line(str(error)) or kinds[0]
    if reading and not _BROKEN.isdisjoint(kinds):
        return TemporaryError(f"{url}: the connection broke ({text}); run again")
    where, name = _without_user(where), name_of_endpoint(endpoint_url, where)
    if told := _of_header(text) or _of_proxies(text) or _of_profile(error):
        return StorageError(f"{url}: {told}")
    if "SSLError" in kinds or "CA certificate" in text:
        return StorageError(f"{url}: {_of_certificates(text, where, name)}")
    if "recursion depth" in text:  # botocore follows redirections of buckets
        kinds = ["RecursionError"]
    told = next((_FAILURES[kind] for kind in kinds if kind in _FAILURES), None)
    if told is None or "Failed to parse" in text:
        told = f"a setting of S3 is wrong ({kinds[0]}: {{text}}); {_settings(str(error), endpoint_url)}"
    proxies = " or ".join(_proxies() or ["HTTP_PROXY", "HTTPS_PROXY"])
    said = told.format(text=text, where=where, name=name, profile=_profile(), proxies=proxies)
    return StorageError(f"{url}: {said}")


def name_of_endpoint(endpoint_url: str | None, where: str) -> str:
    """Return what says where S3 is.

    Args:
        endpoint_url: where S3 is, if a parameter says so.
        where: whom the client asks.
    """
    if endpoint_url:
        return "publish.endpoint_url"
    for name in _ENDPOINTS[:2]:
        if os.environ.get(name):
            return name
    return "AWS_DEFAULT_REGION" if "amazonaws.com" in where else "endpoint_url in the AWS config file"


def _answered(error: Exception, url: str, endpoint_url: str | None, where: str) -> Exception:
    response = error.response  # pyright: ignore[reportAttributeAccessIssue]
    about = response.get("ResponseMetadata", {})
    code, message = (_line(str(response.get("Error", {}).get(key) or "")) for key in ("Code", "Message"))
    status, tries = str(about.get("HTTPStatusCode")), 1 + about.get("RetryAttempts", 0)
    code = code or status
    region = about.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    if code in {"NoSuchKey", "404"}:
        operation = error.operation_name  # pyright: ignore[reportAttributeAccessIssue]
        if code in _NO_ANSWERS_OF_S3.get(operation, ()):
            name = name_of_endpoint(endpoint_url, where)
            told = f"{where} answers as no S3 does ({code}), or its path is wrong; correct {name}{_or_the_proxy()}"
            return StorageError(f"{url}: {told}")
        return FileMissingError(f"{url}: there is no such object")
    if status in {"304", "412"}:
        return ConditionError(f"{url}: the store says that the condition does not hold ({code})")
    if status == "409":
        return ConflictError(
            f"{url}: the store refuses because of other writers ({code}: {message}, tried {tries} times); run again "
            "later"
        )
    if status == "416":
        return RangeError(f"{url}: the object is shorter than what came of it before ({code})")
    kind = StorageError
    text = _ANSWERS.get(code) or _ANSWERS.get(status, "the store answers {code}: {message}")
    if code not in _ANSWERS and status in _NOT_UNDERSTOOD:
        kind, text = (
            NotUnderstoodError,
            f"the store does not understand the request ({{code}}: {{message}}); {_remedy()}",
        )
    said = text.format(code=code, message=message, tries=tries, region=f", {_line(region)}" if region else "")
    return kind(f"{url}: {said}{_or_the_proxy() if code == status else ''}")


def _or_the_proxy() -> str:
    return "; or it is the proxy's answer: name the store's host in NO_PROXY" if _proxies() else ""


def _proxies() -> list[str]:
    """Return the names of the variables that name a proxy."""
    return [name for name, value in os.environ.items() if _PROXY.fullmatch(name) and value.strip()]


def _of_header(text: str) -> str | None:
    if "Invalid header value" not in text:
        return None
    return f"the credentials hold a line break, or what else no header may; {_CREDENTIALS}"


def _of_proxies(text: str) -> str | None:
    """Tell of proxies that cannot be understood. The client repeats pieces of them, with part of the password."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    if "Failed to parse" not in text:
        return None
    wrong = []
    for name in _proxies():
        try:
            parse_url(os.environ[name])
        except LocationParseError:
            wrong.append(name)
    if not wrong:
        return None
    return (
        f"the address of a proxy cannot be understood; correct or unset {', '.join(wrong)}: http://host:port, and in a "
        "user or a password %2F for /, %40 for @, %3A for :"
    )


def _of_profile(error: Exception) -> str | None:
    """Tell of credentials that a profile gets from elsewhere. What its program writes may be secret."""
    about = getattr(error, "kwargs", {})
    match type(error).__name__, about.get("provider"):
        case "CredentialRetrievalError", "custom-process":
            reason = _STATUS.search(about.get("error_msg", ""))
            said = reason[0] if reason else "it says no credentials that are understood"
            return (
                f"the credentials cannot be had: {said}; correct credential_process of {_profile()}, or run it by hand"
            )
        case "PartialCredentialsError", "env" | "shared-credentials-file" | "config-file" as provider:
            where = "" if provider == "env" else f", or both in {_profile()}"
            return (
                f"half of the credentials are missing ({_line(str(error))}); set both AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY{where}"
            )
        case "PartialCredentialsError", _:
            return (
                f"{_profile()} says half of where its credentials come from ({_line(str(error))}); a role_arn needs "
                "source_profile, credential_source or web_identity_token_file beside it"
            )
        case _:
            pass
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    name = "AWS_WEB_IDENTITY_TOKEN_FILE"
    source = f"correct or unset {name}"
    if os.environ.get(name) != error.filename:
        source = f"correct web_identity_token_file or credential_process of {_profile()} in the AWS config file"
    return f"{_line(error.filename)}, from which the credentials come, cannot be had ({error.strerror}); {source}"


def _profile() -> str:
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    return f"the profile {_line(name)!r} (AWS_PROFILE)" if name else "the profile 'default' (AWS_PROFILE is not set)"


def _remedy() -> str:
    if os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "").lower() == "when_required":
        return "check the endpoint's scheme (http or https) and port, and what the store can do"
    return f"check the endpoint's scheme (http or https) and port; {_CHECKSUMS}"


def _of_certificates(text: str, where: str, name: str) -> str:
    if re.search("WRONG_VERSION_NUMBER|wrong version number|record layer failure|RECORD_LAYER_FAILURE", text):
        return f"{where} speaks no TLS ({text}); write http:// in {name}, or the port that speaks TLS"
    if re.search("No such file|Is a directory|Permission denied|NO_CERTIFICATE|CA certificate", text):
        return (
            f"the authorities' certificates cannot be read ({text}); correct or unset AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE"
        )
    return (
        f"the certificate of {where} is not trusted ({text}); let AWS_CA_BUNDLE name the file with its authority's "
        f"certificate, and {name} the host that it is for"
    )


def _settings(text: str, endpoint_url: str | None) -> str:
    """Name what holds a value that the client complains of; or else what is empty, or all that it may have read."""
    given = {name: value for name, value in os.environ.items() if _SETTING.fullmatch(name)}
    given |= {"publish.endpoint_url": endpoint_url} if endpoint_url else {}
    values = {name: re.escape(value) for name, value in given.items() if value.strip()}
    named = [name for name, value in values.items() if re.search(rf"(?<![\w.:/-]){value}(?![\w.:/-])", text)]
    wrong = [name for name in _ENDPOINTS if given.get(name) and not _URL.match(given[name])]
    empty = [name for name in given if name not in values and name not in _ENDPOINTS]
    suspects = named or wrong or empty or sorted(name for name in given if name.startswith("AWS_"))
    files = "what the AWS config file says (AWS_CONFIG_FILE, or ~/.aws/config)"
    return f"correct or unset {', '.join(suspects)}, or correct {files}" if suspects else f"correct {files}"


def _line(text: str) -> str:
    """Return a text of others as one line that may be printed; of a proxy it says the variable alone."""
    shown = text[: 10 * _LONGEST]
    for name in _proxies():
        value = os.environ[name].strip()
        shown = shown.replace(value, name) if len(value) >= _SHORTEST else shown
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        secret = os.environ.get(name, "").strip()
        shown = shown.replace(secret, "…") if len(secret) >= _SHORTEST else shown
    printable = "".join(character if character.isprintable() else " " for character in shown)
    line = _without_user(" ".join(printable.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _without_user(text: str) -> str:
    """Remove the user of every address, with or without a scheme: all of a word, or an endpoint, up to its last `@`."""
    return re.sub(r"(?<=Invalid endpoint: ).*@|\S+", _without_user_of_word, text)


def _without_user_of_word(word: re.Match[str]) -> str:
    before, at, after = word[0].rpartition("@")
    scheme = re.match(r"[^\w]*\w+://", before)
    return f"{scheme[0] if scheme else ''}…@{after}" if at else word[0]
