"""How is a server asked that speaks OpenAI's protocol (`vllm serve`, say)?"""

from __future__ import annotations

import base64
import email.utils
import io
import os
import random
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from vtrap_data.errors import UsageError, VtrapError

KEY_VARIABLES = ("VTRAP_API_KEY", "OPENAI_API_KEY")
"""The first of these environment variables that is set holds the key. It goes nowhere but into the request."""
TRIES = 6
_LONGEST_WAIT = 60.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class Answer(NamedTuple):
    """An answer.

    Attributes:
        choice: All that the server says about it.
        text: Its words.
        prompt_tokens: Tokens of the prompt; 0: the server does not say.
    """

    choice: Mapping[str, Any]
    text: str
    prompt_tokens: int


class ChatServer:
    """A server, to be asked from several threads.

    Args:
        base_url: Its address, its path (`/v1`) included.
        concurrency: Questions that it is asked at a time, at most.
        timeout: Seconds until an unanswered question is asked again.
        hints: What to do about an answer that has this in it, for messages.

    Raises:
        UsageError: No such address can be, or it holds a password; or the key cannot be sent.
        VtrapError: The server cannot be reached, or is none that speaks this protocol.
    """

    def __init__(
        self, base_url: str, *, concurrency: int, timeout: float = 600.0, hints: Mapping[str, str] | None = None
    ) -> None:
        try:
            parts = urlsplit(base_url)
            _port = parts.port  # looked at only when it is asked for
        except ValueError as error:
            raise UsageError(f"--base-url is no address: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("--base-url must begin with http:// or https://, such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise UsageError(f"--base-url must not hold a password: put the key into {KEY_VARIABLES[0]}")
        self.url = base_url.rstrip("/")
        self._timeout, self._hints = timeout, dict(hints or {})
        self._key = _key()
        self._session = requests.Session()
        self._session.mount("http", HTTPAdapter(pool_maxsize=concurrency))
        # As `auth`, so that no other password (of a .netrc, say) takes its place.
        self._session.auth = self._sign
        what = "the list of models"
        listed = self.ask("GET", "/models", None, what=what).get("data") or []
        if not isinstance(listed, list) or not all(isinstance(model, dict) for model in listed):
            raise VtrapError(f"{what}: {self.where} sent none in OpenAI's form: is --base-url the right address?")
        self.names = tuple(str(model.get("id")) for model in listed)
        self.is_vllm = any(model.get("owned_by") == "vllm" for model in listed)

    @property
    def where(self) -> str:
        """For messages: which server, without what may be secret."""
        return f"the server at {urlsplit(self.url).netloc}"

    def pick(self, wanted: str | None, *, setting: str) -> str:
        """The name of a model that the server has: `wanted`, or the only one.

        Raises:
            UsageError: It has none of that name, or several; `setting` says which.
        """
        if wanted is None and len(self.names) == 1:
            wanted = self.names[0]
        if wanted is None or (self.names and wanted not in self.names):
            raise UsageError(
                f"{self.where} serves {', '.join(self.names[:10]) or 'nothing'}: say which with {setting}"
            )
        return wanted

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None, *, what: str) -> dict[str, Any]:
        """One request, tried again with growing waits while that can help.

        Args:
            method: "GET" or "POST".
            path: After the address.
            body: JSON-ready.
            what: What is asked about, for messages.

        Raises:
            VtrapError: The server refused, or gave no JSON object in `TRIES` tries.
        """
        problem = ""
        for attempt in range(TRIES):
            pause: float | None = None
            try:
                reply = self._session.request(
                    method,
                    self.url + path,
                    json=body,
                    timeout=(min(10.0, self._timeout), self._timeout),
                    allow_redirects=False,
                )
            except requests.Timeout:
                problem = f"no answer within {self._timeout:g} s (--timeout)"
            except requests.RequestException as error:
                problem = f"it cannot be reached ({type(error).__name__})"
            else:
                if reply.status_code == 200:
                    try:
                        found = reply.json()
                    except ValueError:
                        found = None
                    if isinstance(found, dict):
                        return found
                    problem = "an answer that is no JSON object"
                else:
                    problem = f"HTTP {reply.status_code}: {self._said(reply)}"
                    if reply.status_code not in _RETRIED:
                        raise self._refused(what, reply.status_code, problem)
                    pause = _retry_after(reply)
            if attempt + 1 < TRIES:
                # Waits are spread, so that the questions of a batch do not all come back at once.
                grown = min(_LONGEST_WAIT, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)
                time.sleep(min(_LONGEST_WAIT, max(pause or 0.0, grown)))
        raise VtrapError(f"{what}: {self.where}, {problem}; tried {TRIES} times")

    def _refused(self, what: str, status: int, problem: str) -> VtrapError:
        if status in (401, 403):
            hint = f": put the key into the environment variable {KEY_VARIABLES[0]}"
        elif status == 404:
            hint = ": does --base-url end in /v1?"
        else:
            hint = next((f": {remedy}" for sign, remedy in self._hints.items() if sign in problem), "")
        return VtrapError(f"{what}: {self.where} refused it, {problem}{hint}")

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _said(self, reply: requests.Response) -> str:
        try:
            error = reply.json().get("error")
            said = str(error.get("message") if isinstance(error, dict) else error or reply.text)
        except (ValueError, AttributeError):
            said = reply.text
        if self._key:
            said = said.replace(self._key, "***")
        return " ".join(said.split())[:300] or "no reason given"


def picture(image: Any) -> dict[str, Any]:
    """A picture as a part of a message, without loss."""
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(image)}"}}


def png(image: Any) -> str:
    """A picture as PNG in base64."""
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG", compress_level=1)
    return base64.b64encode(out.getvalue()).decode()


def first_answer(reply: Mapping[str, Any], *, what: str, where: str) -> Answer:
    """What a reply to /chat/completions holds.

    Raises:
        VtrapError: It is in no form of OpenAI's.
    """
    try:
        choice = reply["choices"][0]
        text = choice["message"].get("content") or ""
        used = int((reply.get("usage") or {}).get("prompt_tokens") or 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise VtrapError(f"{what}: {where} sent no answer in OpenAI's form") from None
    return Answer(choice, str(text), used)


def _key() -> str | None:
    """The key of the environment; None where there is none. No message shows it, nor a part of it."""
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()  # lines of a .env file from Windows end in a carriage return
        if key and not (key.isascii() and key.isprintable()):
            raise UsageError(f"{name} holds characters that no key has, outside printable ASCII: set it anew")
        if key:
            return key
    return None


def _retry_after(reply: requests.Response) -> float | None:
    """Seconds that the server asks to wait; None if it does not say."""
    value = reply.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, when.timestamp() - time.time())
