"""How does a server answer that speaks OpenAI's protocol (`vllm serve`, say)?

Frames are sent without loss. To vLLM a video goes as one, frame by frame, with its times; any server can be sent the
frames as single pictures instead, which is another prompt, and is said in `run.json`. The prompt that vLLM made is
compared with vtrap's, token by token. Which weights a server has cannot be seen from here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vtrap_bench.backends import BackendSettings, Generation, Step, UnfinishedError
from vtrap_bench.backends.prompts import same_prompt, video_of, video_settings
from vtrap_data.chat_server import ChatServer, first_answer, picture, png
from vtrap_data.encoding import Encoded, encode, load_processor, preprocessing
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Example

_TRUST = (
    "start vLLM with --trust-request-mm-kwargs, so that vtrap can say how far apart the frames are, or use --videos "
    "images (another prompt)"
)
_HINTS = {"trust-request-mm-kwargs": _TRUST, "media_io_kwargs": _TRUST}
_MARKS = re.compile(f"({re.escape(VIDEO_MARK)}|{re.escape(IMAGE_MARK)})")


class OpenAIBackend:
    """A server. Close to nothing is loaded here."""

    def __init__(self, settings: BackendSettings) -> None:
        if settings.serving.base_url is None:
            raise UsageError("--backend openai needs --base-url, such as http://127.0.0.1:8000/v1")
        self._settings = settings
        serving = settings.serving
        self._server = ChatServer(
            settings.serving.base_url, concurrency=serving.concurrency, timeout=serving.timeout, hints=_HINTS
        )
        wanted = serving.served_name
        if wanted is None and settings.model.name in self._server.names:
            wanted = settings.model.name
        self._name = self._server.pick(wanted, setting="--served-name")
        self._is_vllm = self._server.is_vllm
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
        parts = urlsplit(self._server.url)
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

    def prepare(self, examples: Sequence[Example]) -> Sequence[Example]:
        """As they are: the server makes its own inputs."""
        return examples

    def generate(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[Generation]:
        """Answer each example, `concurrency` at a time.

        Args:
            examples: With their media decoded.
            max_new_tokens: Longest answer.

        Raises:
            UnfinishedError: An example cannot be encoded, or the server refused a question or could not be reached;
                holds the answers to the others.
        """
        done: dict[int, Generation] = {}
        failure: VtrapError | None = None
        pool = ThreadPoolExecutor(self._settings.serving.concurrency)
        try:
            asked = [pool.submit(self._answer, example, max_new_tokens) for example in examples]
            for number, answer in enumerate(asked):
                if failure is not None and answer.cancel():
                    continue  # not asked yet; those under way are waited for, and kept
                try:
                    done[number] = answer.result()
                except VtrapError as error:
                    failure = failure or error
        finally:  # after Ctrl-C, say: those that are not asked yet never are, and nobody waits for the others
            pool.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise UnfinishedError(f"{failure}; what was answered is kept", done=done) from failure
        return [done[number] for number in range(len(examples))]

    def _answer(self, example: Example, max_new_tokens: int) -> Generation:
        encoded = encode(example, self.processor, train=False)
        request = self._request(example, encoded, max_new_tokens)
        reply = self._server.ask("POST", "/chat/completions", request, what=example.item.id)
        answer = first_answer(reply, what=example.item.id, where=self._server.where)
        choice, text = answer.choice, answer.text
        if self._exact:
            same_prompt(encoded, reply.get("prompt_token_ids"), engine="the server")
        steps = _steps(choice) if self._is_vllm else ()
        if self._is_vllm and choice.get("token_ids"):
            text = self.processor.tokenizer.decode(
                choice["token_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return Generation(text, encoded.visual_tokens, answer.prompt_tokens or len(encoded.input_ids), steps)

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
                    content.append(picture(next(images)))
                elif piece == VIDEO_MARK and example.frames is not None:
                    if self._settings.serving.videos == "images":
                        content += [picture(frame) for frame in example.frames.images]
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
        frames = [png(frame) for frame in example.frames.images]
        known = hashlib.sha256("".join(frames).encode() + repr(video).encode()).hexdigest()
        request["media_io_kwargs"] = {"video": {"fps": video.fps, "num_frames": video.frames}}
        request["mm_processor_kwargs"] = {"videos_kwargs": video_settings(self.processor)}
        # The server's cache goes by the frames alone; the same frames with other times are another video.
        url = {"url": f"data:video/jpeg;base64,{','.join(frames)}"}
        return {"type": "video_url", "video_url": url, "uuid": known}


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
