"""How does a server answer that speaks OpenAI's protocol (`vllm serve`, say)?

Frames are sent without loss. To vLLM a video goes as one, frame by frame, with its times; any server can be sent the
frames as single pictures instead, which is another prompt, and is said in `run.json`. The prompt that vLLM made is
compared with vtrap's, token by token. Which weights a server has cannot be seen from here.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import io
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter

from vtrap_bench.backends import BackendSettings, Generation, Step, UnfinishedError
from vtrap_bench.backends.prompts import same_prompt, video_of, video_settings
from vtrap_data.encoding import Encoded, encode, load_processor, preprocessing
from vtrap_data.errors import SampleError, UsageError, VtrapError
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Example

KEY_VARIABLES = ("VTRAP_API_KEY", "OPENAI_API_KEY")
"""The first of these environment variables that is set holds the key. It goes nowhere but into the request."""
TRIES = 6
_LONGEST_WAIT = 60.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MARKS = re.compile(f"({re.escape(VIDEO_MARK)}|{re.escape(IMAGE_MARK)})")


class OpenAIBackend:
    """A server. Close to nothing is loaded here."""

    def __init__(self, settings: BackendSettings) -> None:

        if settings.serving.base_url is None:
            raise UsageError("--backend openai needs --base-url, such as http://127.0.0.1:8000/v1")
        parts = urlsplit(settings.serving.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("--base-url must begin with http:// or https://, such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise UsageError(f"--base-url must not hold a password: put the key into {KEY_VARIABLES[0]}")
        self._settings = settings
        self._url = settings.serving.base_url.rstrip("/")
        self._key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
        self._session = requests.Session()
        self._session.mount("http", HTTPAdapter(pool_maxsize=settings.serving.concurrency))
        # As `auth`, so that no other password (of a .netrc, say) takes its place.
        self._session.auth = self._sign
        listed = self._ask("GET", "/models", None, what="the list of models").get("data") or []
        self._is_vllm = any(m.get("owned_by") == "vllm" for m in listed)
        self._name = self._pick([str(m.get("id")) for m in listed])
        self.processor: Any = load_processor(settings.model)
        self._preprocessing = preprocessing(settings.model, self.processor)
        self._exact = self._is_vllm and settings.serving.videos == "video"
        if settings.serving.videos == "images":
            self._preprocessing = {**self._preprocessing, "videos": "single images"}

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The preprocessing manifest of the model's files that are here."""
        return self._preprocessing

    @property
    def facts(self) -> Mapping[str, Any]:
        """Which server it was, how it was sent videos, and what could be compared."""
        parts = urlsplit(self._url)
        compared = "compared with vtrap's, every one"
        if not self._exact:
            compared = "not compared: the server gives no token ids, or videos went as single images"
        return {
            "server": urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")),
            "served_name": self._name,
            "is_vllm": self._is_vllm,
            "videos": self._settings.serving.videos,
            "prompts": compared,
        }

    def generate(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[Generation]:
        """Answer each example, `concurrency` at a time.

        Args:
            examples: With their media decoded.
            max_new_tokens: Longest answer.

        Raises:
            SampleError: An example cannot be encoded.
            UnfinishedError: The server refused a question or could not be reached; holds the answers to the others.
        """
        done: dict[int, Generation] = {}
        failure: VtrapError | None = None
        with ThreadPoolExecutor(self._settings.serving.concurrency) as pool:
            asked = [pool.submit(self._answer, example, max_new_tokens) for example in examples]
            for number, answer in enumerate(asked):
                if failure is not None and answer.cancel():
                    continue  # not asked yet; those under way are waited for, and kept
                try:
                    done[number] = answer.result()
                except SampleError:
                    pool.shutdown(cancel_futures=True)
                    raise
                except VtrapError as error:
                    failure = failure or error
        if failure is not None:
            raise UnfinishedError(f"{failure}; what was answered is kept", done=done) from failure
        return [done[number] for number in range(len(examples))]

    def _answer(self, example: Example, max_new_tokens: int) -> Generation:
        encoded = encode(example, self.processor, train=False)
        request = self._request(example, encoded, max_new_tokens)
        reply = self._ask("POST", "/chat/completions", request, what=example.item.id)
        try:
            choice = reply["choices"][0]
            text = choice["message"].get("content") or ""
            used = int((reply.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, IndexError, TypeError, ValueError):
            raise VtrapError(f"{example.item.id}: {self._where} sent no answer in OpenAI's form") from None
        if self._exact:
            same_prompt(encoded, reply.get("prompt_token_ids"), engine="the server")
        steps = _steps(choice) if self._is_vllm else ()
        if self._is_vllm and choice.get("token_ids"):
            text = self.processor.tokenizer.decode(
                choice["token_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return Generation(text, encoded.visual_tokens, used or len(encoded.input_ids), steps)

    def _request(self, example: Example, encoded: Encoded, max_new_tokens: int) -> dict[str, Any]:
        turns = example.item.messages
        last = max((i for i, m in enumerate(turns) if m.role == "user"), default=len(turns) - 1)
        images = iter(example.images)
        request: dict[str, Any] = {"model": self._name, "temperature": 0, "max_tokens": max_new_tokens}
        messages = []
        for turn in turns[: last + 1]:
            content: list[dict[str, Any]] = []
            for piece in (p for p in _MARKS.split(turn.content) if p):
                if piece == IMAGE_MARK:
                    content.append(_picture(next(images)))
                elif piece == VIDEO_MARK and example.frames is not None:
                    if self._settings.serving.videos == "images":
                        content += [_picture(frame) for frame in example.frames.images]
                    else:
                        content.append(self._video(example, request, encoded))
                else:
                    content.append({"type": "text", "text": piece})
            plain = len(content) == 1 and content[0]["type"] == "text"
            messages.append({"role": turn.role, "content": content[0]["text"] if plain else content})
        request["messages"] = messages
        if self._is_vllm:
            request |= {
                "logprobs": True,
                "top_logprobs": 2,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
                "seed": 0,
                "repetition_penalty": 1.0,
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
            }
        return request

    def _video(self, example: Example, request: dict[str, Any], encoded: Encoded) -> dict[str, Any]:
        """One part for all frames. The server must let a request say how far apart they are."""
        assert example.frames is not None
        if not self._is_vllm:
            raise UsageError(
                f"{example.item.id} is a video, and only vLLM can be sent one frame by frame with its times: use "
                "--videos images (the model then sees single images, which is another prompt)"
            )
        video = video_of(encoded, temporal_patch_size=self.processor.video_processor.temporal_patch_size)
        # The loader of "video/jpeg" opens each frame by its content, so they can be PNG: nothing is lost.
        frames = [_png(frame) for frame in example.frames.images]
        known = hashlib.sha256("".join(frames).encode() + repr(video).encode()).hexdigest()
        request["media_io_kwargs"] = {"video": {"fps": video.fps, "num_frames": video.frames}}
        request["mm_processor_kwargs"] = {"videos_kwargs": video_settings(self.processor)}
        # The server's cache goes by the frames alone; the same frames with other times are another video.
        url = {"url": f"data:video/jpeg;base64,{','.join(frames)}"}
        return {"type": "video_url", "video_url": url, "uuid": known}

    def _pick(self, names: Sequence[str]) -> str:
        wanted = self._settings.serving.served_name
        if wanted is None and self._settings.model.name in names:
            wanted = self._settings.model.name
        if wanted is None and len(names) == 1:
            wanted = names[0]
        if wanted is None or (names and wanted not in names):
            raise UsageError(
                f"{self._where} serves {', '.join(names[:10]) or 'nothing'}: say which with --served-name"
            )
        return wanted

    @property
    def _where(self) -> str:
        return f"the server at {urlsplit(self._url).netloc}"

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, *, what: str) -> dict[str, Any]:
        """One request, tried again with growing waits while that can help."""
        problem = ""
        for attempt in range(TRIES):
            pause: float | None = None
            try:
                reply = self._session.request(
                    method,
                    self._url + path,
                    json=body,
                    timeout=(min(10.0, self._settings.serving.timeout), self._settings.serving.timeout),
                    allow_redirects=False,
                )
            except requests.Timeout:
                problem = f"no answer within {self._settings.serving.timeout:g} s (--timeout)"
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
        raise VtrapError(f"{what}: {self._where}, {problem}; tried {TRIES} times")

    def _refused(self, what: str, status: int, problem: str) -> VtrapError:
        hint = ""
        if status in (401, 403):
            hint = f": put the key into the environment variable {KEY_VARIABLES[0]}"
        elif status == 404:
            hint = ": does --base-url end in /v1?"
        elif "trust-request-mm-kwargs" in problem or "media_io_kwargs" in problem:
            hint = (
                ": start vLLM with --trust-request-mm-kwargs, so that vtrap can say how far apart the frames are, "
                "or use --videos images (another prompt)"
            )
        return VtrapError(f"{what}: {self._where} refused it, {problem}{hint}")

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


def _png(image: Any) -> str:
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG", compress_level=1)
    return base64.b64encode(out.getvalue()).decode()


def _picture(image: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(image)}"}}


def _steps(choice: Mapping[str, Any]) -> tuple[Step, ...]:
    """Of vLLM, which names tokens "token_id:17" when it is asked for ids."""
    rows = (choice.get("logprobs") or {}).get("content") or []
    steps = []
    for row in rows:
        token = _token_id(row["token"])
        others = [(float(o["logprob"]), _token_id(o["token"])) for o in row.get("top_logprobs") or []]
        logprob, other = max((o for o in others if o[1] != token), default=(float("-inf"), -1))
        steps.append(Step(token, float(row["logprob"]), other, logprob))
    return tuple(steps)


def _token_id(text: str) -> int:
    return int(text.rpartition(":")[2])


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
