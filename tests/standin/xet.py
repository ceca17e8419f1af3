"""Xet: content that arrives in chunks. Takes xorbs and shards, puts whole files together, hands chunks out again.

Formats (all integers little-endian). A hash is 32 bytes, written as four u64 in hexadecimal.
  xorb   chunks, each with 8 bytes before it: version u8, compressed length u24, scheme u8, length u24
  shard  48 bytes of header; then per file: hash, flags u32, entries u32, 8 unused; that many entries of 48 bytes
         (xorb hash, flags u32, unpacked u32, first chunk u32, end chunk u32); if flag 31 as many verification entries;
         if flag 30 an entry whose hash is the file's sha256. A hash of only ones ends the list.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

import lz4.frame
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from standin.store import write_whole

if TYPE_CHECKING:
    from standin.hub import Hub

VERIFIED, HASHED = 1 << 31, 1 << 30


class Chunk(NamedTuple):
    """Where a chunk lies in its xorb, with its header: bytes [start, end); how it is packed; its length."""

    start: int
    end: int
    scheme: int
    length: int


class Cas:
    """The routes of a content-addressed store. Xorbs and file manifests lie in `xet/` of the stand-in's folder."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.root = hub.store.root / "xet"
        self.tokens: dict[str, str] = {}
        repo = r"/api/(?P<kind>models|datasets|spaces)/(?P<ns>[^/]+)/(?P<name>[^/]+)"
        for method, pattern, handler in (
            ("GET", repo + "/xet-(?P<access>read|write)-token/(?P<rev>[^/]+)", self.token),
            ("POST", "/v1/xorbs/default/(?P<xorb>[0-9a-f]{64})", self.put_xorb),
            ("GET", "/_xorbs/(?P<xorb>[0-9a-f]{64})", self.get_xorb),
            ("POST", "/v1/shards", self.put_shard),
            ("GET", "/v1/reconstructions/(?P<file>[0-9a-f]{64})", self.reconstruction),
        ):
            hub.routes.append((method, re.compile(pattern), handler))

    def hash_of(self, sha256: str) -> str | None:
        """The Xet hash of a file that came this way."""
        path = self.root / "sha256" / sha256
        return path.read_text() if path.exists() else None

    async def token(self, request: Request, kind: str, ns: str, name: str, access: str, rev: str) -> Response:
        if access == "write":
            create_pr = bool(request.query_params.get("create_pr"))
            self.hub.writable(request, kind, ns, name, rev, create_pr=create_pr)
        else:
            self.hub.repo(request, kind, ns, name, content=True)
        token, ends = f"xet-{uuid.uuid4().hex}", int(time.time()) + 3600
        self.tokens[token] = access
        headers = {"X-Xet-Cas-Url": self.hub.origin, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(ends)}
        return JSONResponse({"casUrl": self.hub.origin, "accessToken": token, "exp": ends}, headers=headers)

    def _check(self, request: Request, access: str) -> None:
        from standin.hub import Problem

        found = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if found is None:
            raise Problem(401, "no valid Xet token")
        if access == "write" and found != "write":
            raise Problem(403, "this Xet token only reads")

    async def put_xorb(self, request: Request, xorb: str) -> Response:
        self._check(request, "write")
        data = await request.body()
        self.hub.received += len(data)
        path = self.root / "xorbs" / xorb
        new = not path.exists()
        write_whole(path, data)
        return JSONResponse({"was_inserted": new})

    async def get_xorb(self, request: Request, xorb: str) -> Response:
        return self.hub.send_file(request, self.root / "xorbs" / xorb, {"Accept-Ranges": "bytes"})

    async def put_shard(self, request: Request) -> Response:
        self._check(request, "write")
        for file, sha256, terms in read_shard(await request.body()):
            content = b"".join(self._unpack(xorb, first, end) for xorb, _, first, end in terms)
            found = hashlib.sha256(content).hexdigest()
            if sha256 is not None and found != sha256:
                return JSONResponse({"error": "the content does not match its sha256"}, status_code=400)
            write_whole(self.root / "files" / file, json.dumps(terms).encode())
            write_whole(self.hub.store.blob(found), content)
            write_whole(self.root / "sha256" / found, file.encode())
        return JSONResponse({"result": 1})

    async def reconstruction(self, request: Request, file: str) -> Response:
        from standin.hub import Problem

        self._check(request, "read")
        path = self.root / "files" / file
        if not path.exists():
            raise Problem(404, "no such file")
        whole = json.loads(path.read_bytes())
        size = sum(term[1] for term in whole)
        start, end = 0, size
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
            start, end = int(wanted[1]), min(size, int(wanted[2]) + 1) if wanted[2] else size
            if start >= size:
                return Response(status_code=416)
        terms, fetch, skipped, at = [], {}, 0, 0
        for xorb, _, first, last in whole:
            chunks = self._chunks(xorb)
            kept = []
            for number in range(first, last):
                if at + chunks[number].length > start and at < end:
                    if not kept and not terms:
                        skipped = start - at
                    kept.append(number)
                at += chunks[number].length
            if not kept:
                continue
            part = {"start": kept[0], "end": kept[-1] + 1}
            length = sum(chunks[n].length for n in kept)
            terms.append({"hash": xorb, "unpacked_length": length, "range": part})
            span = {"start": chunks[kept[0]].start, "end": chunks[kept[-1]].end - 1}
            url = f"{self.hub.blob_origin}/_xorbs/{xorb}"
            fetch.setdefault(xorb, []).append({"range": part, "url": url, "url_range": span})
        return JSONResponse({"offset_into_first_range": skipped, "terms": terms, "fetch_info": fetch})

    def _chunks(self, xorb: str) -> list[Chunk]:
        return list(read_chunks((self.root / "xorbs" / xorb).read_bytes()))

    def _unpack(self, xorb: str, first: int, end: int) -> bytes:
        data = (self.root / "xorbs" / xorb).read_bytes()
        return b"".join(unpack(data[c.start + 8 : c.end], c) for c in list(read_chunks(data))[first:end])


def read_chunks(data: bytes):
    """The chunks of a xorb; what follows them (an index that begins with another byte) is not needed."""
    at = 0
    while at + 8 <= len(data) and data[at] == 0:
        packed = int.from_bytes(data[at + 1 : at + 4], "little")
        yield Chunk(at, at + 8 + packed, data[at + 4], int.from_bytes(data[at + 5 : at + 8], "little"))
        at += 8 + packed


def unpack(data: bytes, chunk: Chunk) -> bytes:
    if chunk.scheme == 0:
        return data
    plain = lz4.frame.decompress(data)
    if chunk.scheme == 1:
        return plain
    # Every fourth byte was put together before compression.
    mixed, at = bytearray(len(plain)), 0
    for group in range(4):
        length = len(range(group, len(plain), 4))
        mixed[group::4] = plain[at : at + length]
        at += length
    return bytes(mixed)


def hex_of(data: bytes) -> str:
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", data))


def read_shard(data: bytes):
    """Each file of a shard: hash, sha256 if it is there, terms (xorb, unpacked length, first chunk, end chunk)."""
    at = 48
    while data[at : at + 32] not in (b"\xff" * 32, b""):
        file = hex_of(data[at : at + 32])
        flags, entries = struct.unpack_from("<II", data, at + 32)
        at += 48
        terms = []
        for _ in range(entries):
            _, unpacked, first, end = struct.unpack_from("<IIII", data, at + 32)
            terms.append((hex_of(data[at : at + 32]), unpacked, first, end))
            at += 48
        at += 48 * entries if flags & VERIFIED else 0
        sha256 = None
        if flags & HASHED:
            sha256 = hex_of(data[at : at + 32])
            at += 48
        yield file, sha256, terms
