"""What goes to a server that speaks OpenAI's protocol, and what must not be said of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vtrap_data.chat_server import ChatServer
from vtrap_data.errors import UsageError, VtrapError

SAYS = {"models": b'{"data": []}'}


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the key of every request."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization", ""))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SAYS["models"])

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_address[1]}/v1", keys
    serving.shutdown()
    serving.server_close()


def test_a_key_from_a_windows_file_is_sent_without_its_end(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, keys = server
    monkeypatch.setenv("VTRAP_API_KEY", "\r\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\r")
    ChatServer(url, concurrency=1)
    assert keys == ["Bearer sk-secret"]


@pytest.mark.parametrize("key", ["sk-secret\rx", "sk-secrét", "sk-secret…"])
def test_a_key_that_cannot_be_sent_is_not_shown(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    url, keys = server
    monkeypatch.setenv("VTRAP_API_KEY", key)
    with pytest.raises(UsageError, match="VTRAP_API_KEY holds characters that no key has") as caught:
        ChatServer(url, concurrency=1)
    assert "sk-" not in str(caught.value) and caught.value.__context__ is None and not keys


@pytest.mark.parametrize("url", ["http://[x", "http://x:99999/v1", "http://x:y/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--base-url is no address"):
        ChatServer(url, concurrency=1)


@pytest.mark.parametrize("listed", ["5", '["gpt"]', '{"id": "gpt"}', '"gpt"', "[null]"])
def test_a_list_of_models_that_is_none_is_told(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    url, _ = server
    monkeypatch.setitem(SAYS, "models", f'{{"data": {listed}}}'.encode())
    with pytest.raises(VtrapError, match=r"list of models: the server at 127\.0\.0\.1:\d+ sent none in OpenAI's form"):
        ChatServer(url, concurrency=1)
