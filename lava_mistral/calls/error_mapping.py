"""Map HTTP answers, error events and exceptions of the HTTP layer to the error tree."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from lava_mistral import errors
from lava_mistral.billing.credentials import is_lava_credential, is_loopback, payer_of
from lava_mistral.defaults import DEFAULT_CHAT_MODEL, DEFAULT_EMBEDDING_MODEL
from lava_mistral.errors import AnswerText, LavaError, Origin
from lava_mistral.transport.failures import ConnectTimeout, DeadlineExceeded, NotConnected, TransportError
from lava_mistral.transport.retry import RETRIED_STATUSES, parse_retry_after

_ENDS_IN_V1 = "Check base_url or LAVA_BASE_URL: it ends in /v1, like https://api.lava.so/v1."
# Status → the class, and the advice where Lava says it and where Mistral does.
_BY_STATUS: dict[int, tuple[type[LavaError], str, str]] = {
    401: (
        errors.AuthenticationError,
        "Check the key: a secret key starts with aks_live_ or aks_test_; set LAVA_SECRET_KEY or api_key=. "
        "Spend keys (lava_sk_…) are not for the forward proxy; `lava-mistral doctor` tests the key.",
        "Mistral did not accept the provider key: check Billing(provider_key=…); without one, Lava's own key is used.",
    ),
    402: (
        errors.InsufficientBalanceError,
        f"It is {{payer}} that would have been charged and has no credit left: top up at {errors.TOP_UP}.",
        "The Mistral account of the provider key has no credit left.",
    ),
    403: (
        errors.PermissionDeniedError,
        "Nothing was charged; it would have been charged to {payer}. "
        "Check the customer id, that the meter is on the customer's plan, and that the key may do this.",
        "It is Mistral that refuses: by a guardrail, or because the provider key may not use this model.",
    ),
    404: (errors.NotFoundError, f"Unless an id is wrong: {_ENDS_IN_V1}", ""),
    405: (errors.InvalidRequestError, _ENDS_IN_V1, ""),
    408: (errors.APITimeoutError, "", ""),
    429: (errors.RateLimitError, "", ""),
}
# Both forms in which Mistral says that a prompt is too long (codes 3051, and 3059 or 5059).
_OVERFLOW = re.compile(r"too large for model with \d+ maximum context|>\s*\d+ maximum context length", re.I)
_SECRET = re.compile(r"aks_(?:live|test)_[\w-]+|lava_sk_[\w-]+|(?i:bearer)\s+[\w.+/=-]{16,}|eyJ[\w+/-]{16,}=*")
_PAGE = "a page of HTML came instead of an answer of Lava's"
_TITLE = re.compile(r"<title[^>]*>([^<]+)", re.I)
_PLAIN_ID = re.compile(r"req_[0-9A-Za-z]{1,64}")
_LONGEST_QUOTE = 500
# Those of ASCII and Latin-1, line ends among them, and the signs that turn the direction of a text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace secrets in any form (plain, percent-encoded, escaped in JSON, base64), and whatever looks like a Lava
    credential, by `[redacted]`."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = _forms(secret).sub("[redacted]", text)
    return _SECRET.sub("[redacted]", text)


@lru_cache(maxsize=256)
def _forms(secret: str) -> re.Pattern[str]:
    forms = ["".join(rf"(?:{re.escape(c)}|(?i:%{ord(c):02x}|\\+u{ord(c):04x}))" for c in secret)]
    if len(secret) > 8:
        for before in range(3):
            # Of the base64 of a longer text, the letters that the secret alone decides.
            whole = base64.b64encode(b"\0" * before + secret.encode()).decode()
            sure = whole[(before * 8 + 5) // 6 : (before + len(secret)) * 8 // 6]
            forms.append(re.escape(sure).replace(r"\+", "[+-]").replace("/", "[/_]"))
    return re.compile("|".join(forms))


def error_from_response(answer: AnswerText, credential: str) -> LavaError:
    """Return the error that an HTTP answer to a credential stands for; 402 and 403 name who would have paid."""
    status, body = answer.status, parse_body(answer.text)
    detail = read_error_body(body)
    message, origin = detail.message or f"an answer with status {status} and no explanation", detail.origin
    default = errors.InvalidRequestError if 400 <= status < 500 else errors.ServerError
    kind, of_lava, of_mistral = _BY_STATUS.get(status, (default, "", ""))
    advice = of_mistral if origin == "mistral" else of_lava.format(payer=payer_of(credential))
    if status == 403 and message.startswith(_PAGE):
        origin = "client"
        advice = "A firewall or a proxy in between refuses the request: ask who runs it to let it through."
    elif 300 <= status < 400 and "location" in answer.headers:
        message = f"a redirect to {shorten(answer.headers['location'])} came, and none is followed"
        advice = _ENDS_IN_V1
    elif status == 401 and origin == "lava" and not is_lava_credential(credential):
        advice = (
            "This does not look like a Lava key; a Mistral key of your own goes into "
            f"billing=Billing(provider_key=…), beside Lava's. {advice}"
        )
    elif status in (400, 413, 422) and _OVERFLOW.search(message):
        kind = errors.ContextOverflowError
        advice = "Shorten or summarize the conversation, or take a model with a larger window."
    elif kind is errors.InvalidRequestError and detail.code == "1500":
        advice = _model_advice(message)
    elif kind is errors.InvalidRequestError and detail.code == "3230":
        advice = "repair_messages=True, where it is not set yet, mends the order of a conversation before it is sent."
    return kind(
        message,
        advice=advice,
        status_code=status,
        code=detail.code,
        type=detail.type,
        request_id=shown_id(answer.headers),
        retryable=status in RETRIED_STATUSES if status >= 300 else None,
        retry_after=parse_retry_after(answer.headers.get("retry-after")),
        origin=origin,
        body=body,
        answer=answer,
    )


def shown_id(headers: Mapping[str, str], without_secrets: Callable[[str], str] = redact) -> str | None:
    """Return Lava's id of a request as it may be shown; a broken server can put anything there."""
    request_id = headers.get("x-lava-request-id")
    if request_id is None or _PLAIN_ID.fullmatch(request_id):
        return request_id
    return shorten(without_secrets(request_id))


def error_from_event(text: str, *, request_id: str | None, partial: Any) -> LavaError:
    """Return the error for the JSON of an error that arrived inside a stream which had begun with status 200."""
    body = parse_body(text)
    detail = read_error_body(body)
    return errors.StreamInterruptedError(
        f"the stream ended with an error: {detail.message or 'no explanation was given'}",
        code=detail.code,
        type=detail.type,
        status_code=detail.status,
        request_id=request_id,
        retryable=detail.retryable,
        origin=detail.origin,
        body=body,
        partial=partial,
    )


def error_from_failure(
    failure: TransportError, text: str, *, timeout: float | None = None, host: str = ""
) -> LavaError:
    """Return the error for a request to a host without an answer; `text` is the failure's, without secrets."""
    said = shorten(text) or type(failure).__name__
    if isinstance(failure, ConnectTimeout):
        return errors.APITimeoutError(f"no connection to Lava in time ({said})", origin="lava")
    if isinstance(failure, DeadlineExceeded):
        limit = f" within {timeout:g} s" if timeout is not None else " in time"
        advice = "Give a longer timeout= where the model needs more time."
        return errors.APITimeoutError(f"no answer{limit} ({said})", origin="lava", advice=advice)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return errors.ConfigurationError(
            f"the certificate that came is not trusted: {said}",
            advice="Where a company's firewall signs with an authority of its own, name its file in SSL_CERT_FILE, or "
            "give http_client= with what to trust.",
        )
    advice = "Check the network, a proxy in between and base_url; `lava-mistral doctor` tests them."
    if isinstance(failure, NotConnected) and is_loopback(host):
        advice = "The base URL is on this machine: is `lava-mistral gateway` running?"
    if "WRONG_VERSION_NUMBER" in said:
        advice = "The base URL says https://, but what answers there speaks http://."
    return errors.APIConnectionError(f"the connection to Lava failed: {said}", origin="lava", advice=advice)


class ErrorDetail(NamedTuple):
    """What an error body says, whoever wrote it."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    origin: Origin = "lava"
    status: int | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later, where the body came with a status of success."""
        return self.status is None or self.status in RETRIED_STATUSES


def parse_body(text: str) -> Any:
    """Return the JSON value of a body without credentials; its text, shortened, where it is none."""
    text = redact(text)
    try:
        body = orjson.loads(text)
        # What is nested beyond 254 levels can be neither printed nor pickled.
        orjson.dumps(body)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return shorten(text.strip())
    return body


def shorten(text: str) -> str:
    """Return the beginning of a server's text, without control characters: a message may be shown in a terminal."""
    text = _CONTROL.sub(" ", text[: 2 * _LONGEST_QUOTE])
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"


def read_error_body(body: Any) -> ErrorDetail:
    """Read Lava's `{"error": …}` and each of the forms in which Mistral words an error."""
    if not isinstance(body, dict):
        text = str(body or "")
        if text.lstrip().startswith("<"):
            # Lava and Mistral answer in JSON; what the page of a proxy says is its title.
            title = _TITLE.search(text)
            text = f"{_PAGE}: {' '.join((title[1] if title else text).split())}"
        return ErrorDetail(shorten(text))
    inner = body.get("error")
    origin: Origin = "mistral"
    if body.get("object") != "error" and inner is not None and "detail" not in body:
        body = inner if isinstance(inner, dict) else {"message": inner}
        # Lava's own errors are a string or an object with a message; one that is worded like Mistral's is Mistral's.
        origin = "mistral" if "raw_status_code" in body or body.get("object") == "error" else "lava"
    message = body.get("message")
    if message is None:
        message = body.get("detail")
    if isinstance(message, dict) and "detail" in message:
        message = message["detail"]
    if isinstance(message, list):
        message = "; ".join(map(_field_error, message))
    elif isinstance(message, dict):
        message = orjson.dumps(message).decode()
    said = (message, body.get("code"), body.get("type"))
    message, code, kind = (None if value is None else shorten(str(value)) for value in said)
    numbers = [body.get(name) for name in ("raw_status_code", "status", "status_code", "code")]
    status = next((each for each in numbers if type(each) is int and 400 <= each < 600), None)
    return ErrorDetail(message or "", code, kind, origin, status)


def _field_error(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    place = item.get("loc")
    where = ".".join(str(step) for step in place if step != "body") if isinstance(place, list) else ""
    return f"{where}: {item.get('msg', item.get('type', 'invalid'))}" if where else str(item.get("msg", item))


def _model_advice(message: str) -> str:
    # The catalogue is read when an error asks for it, not when this module is loaded.
    from lava_mistral.pricing.catalog import get_model, nearest_model

    name = message.rpartition(": ")[2].strip()
    model = get_model(name)
    advice = "`lava-mistral models` lists the models that Lava offers."
    if model.notice:
        return f"{model.notice} {advice}"
    if model.known:
        what = f"answers chats; an embeddings request needs a model such as {DEFAULT_EMBEDDING_MODEL!r}"
        if model.can("embeddings"):
            what = f"embeds texts and answers no chats; a chat needs a model such as {DEFAULT_CHAT_MODEL!r}"
        return f"{name!r} {what}. {advice}"
    return f"Did you mean {near!r}? {advice}" if (near := nearest_model(name)) else advice
