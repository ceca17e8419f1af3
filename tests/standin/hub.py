"""The protocol: what does the stand-in answer to a request? One function per route, found by method and path.

Paths are matched as they were sent: a revision such as refs/pr/1 is one quoted segment.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from standin.faults import Fault, Faults
from standin.store import Conflict, Entry, Json, Repo, Store, git_oid, now

LARGE = (".tar", ".parquet", ".safetensors", ".bin", ".mp4", ".png", ".jpg", ".arrow", ".mp")
LARGE_BYTES = 10 * 2**20
PAGE = 1000
CHUNK = 64 * 1024


class Problem(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    def response(self) -> Response:
        headers = {"X-Error-Message": self.message}
        if self.code:
            headers["X-Error-Code"] = self.code
        return JSONResponse({"error": self.message}, status_code=self.status, headers=headers)


Handler = Callable[..., Awaitable[Response]]


class Hub:
    """An ASGI application.

    Attributes:
        store: What it holds.
        faults: What goes wrong.
        log: "METHOD path status" of every request.
        received: Bytes of large files that came in, by LFS or Xet.
    """

    def __init__(self, root: Path, *, scheme: str, port: int, xet: bool) -> None:
        self.store = Store(root)
        self.faults = Faults()
        self.log: list[str] = []
        self.received = 0
        self.origin = f"{scheme}://127.0.0.1:{port}"
        # Another origin than the API's: else clients follow the redirect of a HEAD themselves and lose the headers.
        self.blob_origin = f"{scheme}://localhost:{port}"
        self.xet = None
        self.routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self._add_routes()
        if xet:
            from standin.xet import Cas

            self.xet = Cas(self)

    # ---------------------------------------------------------------- requests

    async def __call__(self, scope: Json, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        request = Request(scope, receive)
        path = scope["raw_path"].decode("ascii").partition("?")[0]
        what = f"{request.method} {path}"
        fault = None if path.startswith("/_control") else self.faults.strike(what)
        if fault is not None and fault.kind == "delay" and not fault.after:
            await asyncio.sleep(fault.seconds)
            fault = None
        if fault is not None and fault.kind == "intrude":
            self._intrude(fault)
            fault = None
        if fault is not None and fault.kind in ("status", "drop") and not fault.after:
            self.log.append(f"{what} !{fault.kind}")
            return await self._fail(fault, scope, receive, send)
        try:
            response = await self._answer(request, path)
        except Problem as problem:
            response = problem.response()
        except ClientDisconnect:
            return None
        self.log.append(f"{what} {response.status_code}{'' if fault is None else f' !{fault.kind}'}")
        if fault is None:
            return await response(scope, receive, send)
        if fault.kind in ("spoil", "delay"):
            if fault.kind == "spoil":
                self._spoil(fault)
            await asyncio.sleep(fault.seconds)
            return await response(scope, receive, send)
        if fault.kind == "cut":
            return await self._cut(response, scope, receive, send)
        return await self._fail(fault, scope, receive, send)

    def _named(self, name: str) -> Repo:
        kind, _, rest = name.partition("/")
        return self.store.repos[kind.removesuffix("s"), rest]

    def _intrude(self, fault: Fault) -> None:
        repo = self._named(fault.repo)
        head = self.at(repo, "main")
        tree = {**repo.tree(head), fault.path: self.store.put(b"theirs")}
        repo.data["branches"]["main"] = repo.commit(head, tree, title="theirs", author="bob")
        repo.save()

    def _spoil(self, fault: Fault) -> None:
        repo = self._named(fault.repo)
        sha = list(repo.data["commits"])[-1]
        path = self.store.content(repo.tree(sha)[fault.path])
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    async def _fail(self, fault: Fault, scope: Json, receive: Any, send: Any) -> None:
        if fault.kind == "drop":
            # What a broken network looks like: uvicorn's own way to end would be a tidy 500.
            send.__self__.transport.abort()
            return
        headers = {"X-Error-Message": fault.message, **fault.headers}
        await JSONResponse({"error": fault.message}, status_code=fault.status, headers=headers)(scope, receive, send)

    async def _cut(self, response: Response, scope: Json, receive: Any, send: Any) -> None:
        """The first half of the body, then nothing."""
        length = int(response.headers.get("content-length", "0"))
        sent = 0

        async def half(message: Any) -> None:
            nonlocal sent
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                sent += len(body)
                if sent >= length / 2:
                    await send(
                        {**message, "body": body[: max(0, len(body) - (sent - length // 2))], "more_body": True}
                    )
                    await asyncio.sleep(0.05)
                    send.__self__.transport.abort()
                    raise ClientDisconnect
            await send(message)

        try:
            await response(scope, receive, half)
        except (ClientDisconnect, OSError):
            return

    async def _answer(self, request: Request, path: str) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        for wanted, pattern, handler in self.routes:
            found = pattern.fullmatch(path)
            if wanted == method and found:
                return await handler(request, **{k: unquote(v) for k, v in found.groupdict().items() if v is not None})
        raise Problem(404, f"no route {request.method} {path}")

    def _add_routes(self) -> None:
        # One segment each; {rest} takes what is left.
        repo = r"/api/(?P<kind>models|datasets|spaces)/(?P<ns>[^/]+)/(?P<name>[^/]+)"
        plain = r"/(?:(?P<kind>datasets|spaces)/)?(?P<ns>[^/]+)/(?P<name>[^/]+?)"
        rev = "/(?P<rev>[^/]+)"
        for method, pattern, handler in (
            ("POST", "/_control/(?P<verb>[a-z]+)", self.control),
            ("GET", "/_control/(?P<verb>[a-z]+)", self.control),
            ("GET", "/_blobs/(?P<sha>[0-9a-f]{64})", self.get_blob),
            ("PUT", "/_upload/(?P<sha>[0-9a-f]{64})/(?P<size>\\d+)", self.put_blob),
            ("POST", "/_verify", self.verify),
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/repos/create", self.create_repo),
            ("DELETE", "/api/repos/delete", self.delete_repo),
            ("POST", "/api/validate-yaml", self.validate_yaml),
            ("GET", repo, self.info),
            ("GET", repo + "/revision" + rev, self.info),
            ("PUT", repo + "/settings", self.settings),
            ("GET", repo + "/tree" + rev + "(?:/(?P<rest>.+))?", self.tree),
            ("POST", repo + "/paths-info" + rev, self.paths_info),
            ("GET", repo + "/refs", self.refs),
            ("GET", repo + "/commits" + rev, self.commits),
            ("POST", repo + "/tag" + rev, self.add_tag),
            ("DELETE", repo + "/tag" + rev, self.delete_tag),
            ("POST", repo + "/branch" + rev, self.add_branch),
            ("POST", repo + "/preupload" + rev, self.preupload),
            ("POST", repo + "/commit" + rev, self.commit),
            ("GET", repo + "/discussions", self.discussions),
            ("POST", repo + "/discussions", self.discuss),
            ("GET", repo + "/discussions/(?P<num>\\d+)", self.discussion),
            ("POST", repo + "/discussions/(?P<num>\\d+)/(?P<verb>merge|status|comment)", self.change_discussion),
            ("GET", repo + "/leaderboard", self.leaderboard),
            ("POST", plain + r"\.git/info/lfs/objects/batch", self.lfs_batch),
            ("GET", plain + "/resolve" + rev + "/(?P<rest>.+)", self.resolve),
            ("GET", "/spaces/(?P<ns>[^/]+)/(?P<name>[^/]+)", self.space),
            ("GET", "/api/resolve-cache.*", self._nothing),
        ):
            self.routes.append((method, re.compile(pattern), handler))

    async def _nothing(self, request: Request) -> Response:
        raise Problem(404, "nothing here")

    # ---------------------------------------------------------------- who may do what

    def user(self, request: Request) -> Json | None:
        """Who asks: {name, role}; None without a token."""
        header = request.headers.get("authorization", "")
        if not header:
            return None
        found = self.store.accounts["tokens"].get(header.removeprefix("Bearer "))
        if found is None or found["role"] == "expired":
            raise Problem(401, "Invalid credentials in Authorization header")
        return dict(found)

    def may_write(self, user: Json | None, namespace: str) -> bool:
        if user is None or user["role"] != "write":
            return False
        return namespace == user["name"] or namespace in self.store.accounts["users"][user["name"]]["orgs"]

    def repo(
        self, request: Request, kind: str, ns: str, name: str, *, write: bool = False, content: bool = False
    ) -> Repo:
        """The repository, if whoever asks may see it (and its content, and write to it)."""
        user = self.user(request)
        repo = self.store.repos.get((kind.removesuffix("s"), f"{ns}/{name}"))
        if repo is None:
            raise Problem(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if repo.data["private"] and not self.may_write({**user, "role": "write"} if user else None, ns):
            raise Problem(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if content and repo.data["gated"]:
            allowed = user is not None and (
                user["name"] in repo.data.get("granted", []) or self.may_write({**user, "role": "write"}, ns)
            )
            if not allowed:
                raise Problem(
                    401 if user is None else 403,
                    f"Access to {ns}/{name} is restricted and needs approval",
                    "GatedRepo",
                )
        if write:
            if user is None:
                raise Problem(401, "You must be logged in to write")
            if user["role"] != "write":
                raise Problem(403, "You must use a write token to write")
            if not self.may_write(user, ns):
                raise Problem(403, f"You don't have the rights to write to {ns}/{name}")
        return repo

    def at(self, repo: Repo, revision: str) -> str:
        sha = repo.resolve(revision)
        if sha is None:
            raise Problem(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def proposer(self, request: Request) -> Json:
        """Whoever may open a pull request: any account, with a token that writes."""
        user = self.user(request)
        if user is None:
            raise Problem(401, "You must be logged in to do this")
        if user["role"] != "write":
            raise Problem(403, "You must use a write token to do this")
        return user

    # ---------------------------------------------------------------- accounts and repositories

    async def whoami(self, request: Request) -> Response:
        user = self.user(request)
        if user is None:
            raise Problem(401, "Invalid username or password.")
        orgs = [{"name": name, "fullname": name} for name in self.store.accounts["users"][user["name"]]["orgs"]]
        token = {"displayName": "test token", "role": user["role"]}
        facts = {"type": "user", "name": user["name"], "fullname": user["name"], "orgs": orgs}
        return JSONResponse({**facts, "auth": {"type": "access_token", "accessToken": token}})

    async def create_repo(self, request: Request) -> Response:
        user, body = self.proposer(request), await request.json()
        namespace = body.get("organization") or user["name"]
        kind, name = body.get("type", "model"), f"{namespace}/{body['name']}"
        if not self.may_write(user, namespace):
            raise Problem(403, f"You don't have the rights to create a {kind} under the namespace {namespace!r}")
        url = f"{self.origin}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.store.repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, status_code=409)
        private = bool(body.get("private")) or body.get("visibility") == "private"
        self.store.create(kind, name, private=private)
        return JSONResponse({"url": url, "name": name, "id": name})

    async def delete_repo(self, request: Request) -> Response:
        user, body = self.proposer(request), await request.json()
        kind, namespace = body.get("type", "model"), body.get("organization") or user["name"]
        self.repo(request, kind + "s", namespace, body["name"], write=True)
        self.store.delete(kind, f"{namespace}/{body['name']}")
        return Response(status_code=200)

    async def settings(self, request: Request, kind: str, ns: str, name: str) -> Response:
        repo, body = self.repo(request, kind, ns, name, write=True), await request.json()
        if "visibility" in body:
            body["private"] = body.pop("visibility") == "private"
        repo.data |= {key: body[key] for key in ("private", "gated") if key in body}
        repo.save()
        return JSONResponse({key: repo.data[key] for key in ("private", "gated")})

    async def validate_yaml(self, request: Request) -> Response:
        body = await request.json()
        errors = [{"message": text} for text in card_errors(body["content"], body.get("repoType", "model"))]
        return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if errors else 200)

    async def info(self, request: Request, kind: str, ns: str, name: str, rev: str = "main") -> Response:
        repo = self.repo(request, kind, ns, name)
        sha = self.at(repo, rev)
        tree = repo.tree(sha)
        card = self.card(tree)
        facts: Json = {"_id": hashlib.md5(repo.data["id"].encode()).hexdigest()[:24], "id": repo.data["id"]}
        facts |= {"author": ns, "sha": sha, "private": repo.data["private"], "gated": repo.data["gated"]}
        facts |= {"lastModified": repo.data["commits"][sha]["date"], "createdAt": repo.data["created"]}
        facts |= {"disabled": False, "downloads": 0, "likes": 0, "tags": list(card.get("tags") or [])}
        facts |= {"cardData": card, "siblings": [{"rfilename": path} for path in tree], "usedStorage": 0}
        if kind == "models":
            facts["pipeline_tag"] = card.get("pipeline_tag")
            if "evalResults" in request.query_params.getlist("expand"):
                facts["evalResults"] = [
                    {**entry, "filename": file} for file, entry in self.scores(repo.tree(self.at(repo, "main")))
                ]
        return JSONResponse(facts)

    def card(self, tree: dict[str, Entry]) -> Json:
        if "README.md" not in tree:
            return {}
        return front_matter(self.store.content(tree["README.md"]).read_text(encoding="utf-8")) or {}

    # ---------------------------------------------------------------- trees and refs

    async def tree(self, request: Request, kind: str, ns: str, name: str, rev: str, rest: str = "") -> Response:
        repo = self.repo(request, kind, ns, name)
        sha = self.at(repo, rev)
        tree = repo.tree(sha)
        prefix = f"{rest}/" if rest else ""
        inside = {path: entry for path, entry in tree.items() if path.startswith(prefix)}
        if rest and not inside:
            raise Problem(404, f"{rest} does not exist on {rev}", "EntryNotFound")
        deep = request.query_params.get("recursive", "").lower() in ("true", "1")
        folders: set[str] = set()
        for path in inside:
            parts = path.removeprefix(prefix).split("/")
            steps = range(1, len(parts)) if deep else range(1, min(2, len(parts)))
            folders |= {prefix + "/".join(parts[:n]) for n in steps}
        files = [self.entry(p, e) for p, e in inside.items() if deep or "/" not in p.removeprefix(prefix)]
        everything = [
            *({"type": "directory", "oid": git_oid(f.encode()), "size": 0, "path": f} for f in sorted(folders)),
            *files,
        ]
        start = int(request.query_params.get("cursor") or 0)
        headers = {}
        if start + PAGE < len(everything):
            address = f"{self.origin}{request.scope['raw_path'].decode()}"
            query = f"recursive={deep}&expand=false&cursor={start + PAGE}"
            headers["Link"] = f'<{address}?{query}>; rel="next"'
        return JSONResponse(everything[start : start + PAGE], headers=headers)

    def entry(self, path: str, entry: Entry) -> Json:
        facts: Json = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.lfs:
            facts["lfs"] = {"oid": entry.lfs, "size": entry.size, "pointerSize": 130}
        if entry.xet:
            facts["xetHash"] = entry.xet
        return facts

    async def paths_info(self, request: Request, kind: str, ns: str, name: str, rev: str) -> Response:
        repo = self.repo(request, kind, ns, name)
        tree = repo.tree(self.at(repo, rev))
        body = await request.body()
        if "json" in request.headers.get("content-type", ""):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode()).get("paths", [])
        found = []
        for path in paths:
            if path in tree:
                found.append(self.entry(path, tree[path]))
            elif any(other.startswith(f"{path}/") for other in tree):
                found.append({"type": "directory", "oid": git_oid(path.encode()), "size": 0, "path": path})
        return JSONResponse(found)

    async def refs(self, request: Request, kind: str, ns: str, name: str) -> Response:
        data = self.repo(request, kind, ns, name).data

        def listed(kind: str, refs: dict[str, str]) -> list[Json]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in refs.items()]

        facts = {"branches": listed("heads", data["branches"]), "tags": listed("tags", data["tags"]), "converts": []}
        if request.query_params.get("include_prs"):
            facts["pullRequests"] = listed("pr", data["prs"])
        return JSONResponse(facts)

    async def commits(self, request: Request, kind: str, ns: str, name: str, rev: str) -> Response:
        repo = self.repo(request, kind, ns, name)
        return JSONResponse(
            [
                {"id": sha, "title": c["title"], "message": c["message"], "date": c["date"], "authors": []}
                for sha, c in repo.history(self.at(repo, rev))
            ]
        )

    async def add_tag(self, request: Request, kind: str, ns: str, name: str, rev: str) -> Response:
        repo, body = self.repo(request, kind, ns, name, write=True), await request.json()
        if body["tag"] in repo.data["tags"]:
            raise Problem(409, "Tag reference exists already")
        repo.data["tags"][body["tag"]] = self.at(repo, rev)
        repo.save()
        return Response(status_code=201)

    async def delete_tag(self, request: Request, kind: str, ns: str, name: str, rev: str) -> Response:
        repo = self.repo(request, kind, ns, name, write=True)
        repo.data["tags"].pop(rev, None)
        repo.save()
        return Response(status_code=200)

    async def add_branch(self, request: Request, kind: str, ns: str, name: str, rev: str) -> Response:
        repo, body = self.repo(request, kind, ns, name, write=True), await request.json()
        if rev in repo.data["branches"]:
            raise Problem(409, "Reference already exists")
        repo.data["branches"][rev] = self.at(repo, body.get("startingPoint") or "main")
        repo.save()
        return Response(status_code=201)

    # ---------------------------------------------------------------- uploads and commits

    async def preupload(self, request: Request, kind: str, ns: str, name: str, rev: str) -> Response:
        create_pr = bool(request.query_params.get("create_pr"))
        repo = self.writable(request, kind, ns, name, rev, create_pr=create_pr)
        tree = repo.tree(self.at(repo, rev))
        answers = []
        for file in (await request.json())["files"]:
            path, old = file["path"], tree.get(file["path"])
            large = path.endswith(LARGE) or int(file["size"]) > LARGE_BYTES
            oid = None if old is None else old.lfs or old.oid
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": answers})

    def writable(self, request: Request, kind: str, ns: str, name: str, rev: str, *, create_pr: bool) -> Repo:
        """The repository, if whoever asks may commit to that revision: own pull requests are open to their author."""
        number = rev.removeprefix("refs/pr/")
        if create_pr or (rev.startswith("refs/pr/") and number.isdecimal()):
            user, repo = self.proposer(request), self.repo(request, kind, ns, name)
            if create_pr:
                return repo
            pull = self.pull(repo, number)
            if pull["status"] not in ("open", "draft"):
                raise Problem(403, "This pull request is not open")
            if pull["author"] == user["name"]:
                return repo
        return self.repo(request, kind, ns, name, write=True)

    async def lfs_batch(self, request: Request, ns: str, name: str, kind: str = "models") -> Response:
        self.proposer(request)
        self.repo(request, kind, ns, name)
        objects = []
        for wanted in (await request.json())["objects"]:
            facts = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.store.blob(wanted["oid"]).exists():
                href = f"{self.blob_origin}/_upload/{wanted['oid']}/{wanted['size']}"
                actions = {"upload": {"href": href, "header": {}}, "verify": {"href": f"{self.origin}/_verify"}}
                facts["actions"] = actions
            objects.append(facts)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def put_blob(self, request: Request, sha: str, size: str) -> Response:
        path = self.store.blob(sha)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{sha}.{uuid.uuid4().hex}.tmp")
        digest, length = hashlib.sha256(), 0
        try:
            with temporary.open("wb") as file:
                async for part in request.stream():
                    file.write(part)
                    digest.update(part)
                    length += len(part)
            self.received += length
            if digest.hexdigest() != sha or length != int(size):
                raise Problem(400, "The content does not match its hash")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return Response(status_code=200, headers={"ETag": f'"{sha}"'})

    async def verify(self, request: Request) -> Response:
        body = await request.json()
        path = self.store.blob(body["oid"])
        if not path.exists() or path.stat().st_size != body["size"]:
            raise Problem(404, "Object not found")
        return Response(status_code=200)

    async def commit(self, request: Request, kind: str, ns: str, name: str, rev: str) -> Response:
        create_pr = bool(request.query_params.get("create_pr"))
        repo = self.writable(request, kind, ns, name, rev, create_pr=create_pr)
        user = self.proposer(request)
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = self.at(repo, rev)
        parent = header.get("parentCommit")
        if parent and not head.startswith(parent) and not create_pr:
            raise Problem(412, "A commit has happened since. Please refresh and try again.")
        tree = repo.tree(head)
        for line in lines:
            self._apply(tree, line["key"], line["value"], kind=kind.removesuffix("s"))
        facts = {"title": header["summary"], "message": header.get("description", ""), "author": user["name"]}
        answer: Json = {"success": True}
        if create_pr:
            pull = repo.open_discussion(
                title=header["summary"],
                description=header.get("description", ""),
                author=user["name"],
                pull=True,
                status="open",
            )
            rev = f"refs/pr/{pull['num']}"
            prefix = "" if kind == "models" else f"{kind}/"
            answer["pullRequestUrl"] = f"{self.origin}/{prefix}{repo.data['id']}/discussions/{pull['num']}"
        sha = repo.commit(head, tree, **facts)
        if rev.startswith("refs/pr/"):
            repo.data["prs"][rev.removeprefix("refs/pr/")] = sha
        elif rev.removeprefix("refs/heads/") in repo.data["branches"]:
            repo.data["branches"][rev.removeprefix("refs/heads/")] = sha
        else:
            raise Problem(400, f"{rev} is no branch")
        repo.save()
        prefix = "" if kind == "models" else f"{kind}/"
        answer |= {"commitOid": sha, "commitUrl": f"{self.origin}/{prefix}{repo.data['id']}/commit/{sha}"}
        return JSONResponse(answer)

    def _apply(self, tree: dict[str, Entry], key: str, value: Json, *, kind: str) -> None:
        if key == "header":
            return
        path = value["path"]
        if path.startswith("/") or ".." in path.split("/"):
            raise Problem(400, f"Invalid path {path!r}")
        if key == "file":
            data = base64.b64decode(value["content"])
            if path.startswith(".eval_results/"):
                check_results(data)
            if path == "README.md" and (errors := card_errors(data.decode(), kind)):
                raise Problem(400, f"Invalid metadata in README.md: {errors[0]}")
            tree[path] = self.store.put(data)
        elif key == "lfsFile":
            if not self.store.blob(value["oid"]).exists():
                raise Problem(400, f"Object {value['oid']} of {path} has not been uploaded")
            size = self.store.blob(value["oid"]).stat().st_size
            xet = self.xet.hash_of(value["oid"]) if self.xet else None
            tree[path] = self.store.large(value["oid"], size, xet)
        elif key == "deletedFile":
            if path not in tree:
                raise Problem(400, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del tree[path]
        elif key == "deletedFolder":
            inside = [p for p in tree if p.startswith(path.rstrip("/") + "/")]
            for p in inside:
                del tree[p]
        else:
            raise Problem(400, f"unknown operation {key}")

    # ---------------------------------------------------------------- pull requests

    def pull(self, repo: Repo, num: str) -> Json:
        found = [d for d in repo.data["discussions"] if d["num"] == int(num)]
        if not found:
            raise Problem(404, "Discussion not found")
        return dict_view(found[0])

    async def discussions(self, request: Request, kind: str, ns: str, name: str) -> Response:
        repo = self.repo(request, kind, ns, name)
        query = request.query_params
        found = []
        for discussion in reversed(repo.data["discussions"]):
            wanted = {"open": ("open", "draft"), "closed": ("closed", "merged")}.get(query.get("status", ""))
            if wanted and discussion["status"] not in wanted:
                continue
            if query.get("type") == "pull_request" and not discussion["isPullRequest"]:
                continue
            if query.get("author") and discussion["author"] != query["author"]:
                continue
            found.append(self._listed(repo, discussion))
        start = 50 * int(query.get("p", "0"))
        page = {"discussions": found[start : start + 50], "count": len(found), "start": start}
        return JSONResponse({**page, "numClosedDiscussions": 0})

    def _listed(self, repo: Repo, discussion: Json) -> Json:
        facts = {key: discussion[key] for key in ("num", "title", "status", "createdAt", "isPullRequest")}
        facts["author"] = {"name": discussion["author"], "type": "user"}
        return facts | {"repo": {"name": repo.data["id"], "type": repo.data["type"]}}

    async def discuss(self, request: Request, kind: str, ns: str, name: str) -> Response:
        user, body = self.proposer(request), await request.json()
        repo = self.repo(request, kind, ns, name)
        pull = bool(body.get("pullRequest"))
        discussion = repo.open_discussion(
            title=body["title"],
            description=body.get("description", ""),
            author=user["name"],
            pull=pull,
            status="draft" if pull else "open",
        )
        repo.save()
        return JSONResponse({"num": discussion["num"], "pullRequest": pull})

    async def discussion(self, request: Request, kind: str, ns: str, name: str, num: str) -> Response:
        repo = self.repo(request, kind, ns, name)
        pull = self.pull(repo, num)
        base: Json = {"base": "refs/heads/main"}
        if pull["merge"]:
            base["mergeCommitId"] = pull["merge"]
        first = {"id": "0", "type": "comment", "createdAt": pull["createdAt"], "author": {"name": pull["author"]}}
        first["data"] = {"edited": False, "hidden": False, "latest": {"raw": pull["description"]}}
        facts = {"changes": base, "filesWithConflicts": [], "events": [first], "diff": ""}
        return JSONResponse({**self._listed(repo, pull), **facts})

    async def change_discussion(
        self, request: Request, kind: str, ns: str, name: str, num: str, verb: str
    ) -> Response:
        user, repo = self.proposer(request), self.repo(request, kind, ns, name)
        pull = self.pull(repo, num)
        body = json.loads(await request.body() or b"null") or {}
        event: Json = {"id": uuid.uuid4().hex, "createdAt": now(), "author": {"name": user["name"]}}
        if verb == "comment":
            data = {"edited": False, "hidden": False, "latest": {"raw": body["comment"]}}
            return JSONResponse({"newMessage": {**event, "type": "comment", "data": data}})
        if not self.may_write(user, ns) and not (verb == "status" and pull["author"] == user["name"]):
            raise Problem(403, "You don't have the rights to do this")
        if verb == "status":
            if pull["status"] == "merged":
                raise Problem(400, "This pull request is merged")
            pull["status"] = body["status"]
            repo.save()
            return JSONResponse({"newStatus": {**event, "type": "status-change", "data": {"status": body["status"]}}})
        if pull["status"] == "draft":
            raise Problem(400, "This pull request is a draft: publish it first")
        if pull["status"] != "open":
            raise Problem(400, f"This pull request is {pull['status']}")
        try:
            repo.merge(pull, author=user["name"])
        except Conflict as conflict:
            raise Problem(409, f"Conflict in {conflict}") from None
        repo.save()
        return JSONResponse({"success": True})

    # ---------------------------------------------------------------- downloads

    async def resolve(
        self, request: Request, ns: str, name: str, rev: str, rest: str, kind: str = "models"
    ) -> Response:
        repo = self.repo(request, kind, ns, name, content=True)
        sha = self.at(repo, rev)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        found = repo.tree(sha).get(rest)
        if found is None:
            problem = Problem(404, "Entry not found", "EntryNotFound").response()
            problem.headers["X-Repo-Commit"] = sha
            return problem
        if found.lfs is None:
            headers["ETag"] = f'"{found.oid}"'
            return self.send_file(request, self.store.content(found), headers)
        headers |= {"X-Linked-Size": str(found.size), "X-Linked-ETag": f'"{found.lfs}"', "ETag": f'"{found.lfs}"'}
        headers["Location"] = f"{self.blob_origin}/_blobs/{found.lfs}"
        if found.xet:
            route = f"{self.origin}/api/{kind}/{repo.data['id']}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": found.xet, "Link": f'<{route}>; rel="xet-auth"'}
        return Response(status_code=302, headers=headers)

    async def space(self, request: Request, ns: str, name: str) -> Response:
        """The page of a static Space, which the Hub serves from a host of its own."""
        repo = self.repo(request, "spaces", ns, name, content=True)
        tree = repo.tree(self.at(repo, "main"))
        if "index.html" not in tree:
            raise Problem(404, "Entry not found", "EntryNotFound")
        page = self.store.content(tree["index.html"]).read_bytes()
        return Response(page, headers={"Content-Type": "text/html; charset=utf-8"})

    async def get_blob(self, request: Request, sha: str) -> Response:
        path = self.store.blob(sha)
        if not path.exists():
            raise Problem(404, "no such blob")
        return self.send_file(request, path, {"ETag": f'"{sha}"', "Accept-Ranges": "bytes"})

    def send_file(self, request: Request, path: Path, headers: dict[str, str]) -> Response:
        size = path.stat().st_size
        start, end, status = 0, size, 200
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if wanted and (wanted[1] or wanted[2]):
            if wanted[1]:
                start, end = int(wanted[1]), min(size, int(wanted[2]) + 1) if wanted[2] else size
            else:
                start = max(0, size - int(wanted[2]))
            if start >= size:
                return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
            status = 206
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
        headers = {**headers, "Content-Length": str(end - start), "Content-Type": "application/octet-stream"}
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)

        def parts() -> Any:
            with path.open("rb") as file:
                file.seek(start)
                left = end - start
                while left > 0 and (part := file.read(min(CHUNK, left))):
                    left -= len(part)
                    yield part

        return StreamingResponse(_gently(parts()), status_code=status, headers=headers)

    # ---------------------------------------------------------------- leaderboard

    def scores(self, tree: dict[str, Entry]) -> list[tuple[str, Json]]:
        found = []
        for path, entry in tree.items():
            if re.fullmatch(r"\.eval_results/[^/]+\.yaml", path):
                found += [(path, e) for e in yaml.safe_load(self.store.content(entry).read_text()) or []]
        return found

    async def leaderboard(self, request: Request, kind: str, ns: str, name: str) -> Response:
        self.repo(request, kind, ns, name)
        rows: list[Json] = []
        for repo in self.store.repos.values():
            if repo.data["type"] != "model" or repo.data["private"]:
                continue
            main = repo.tree(self.at(repo, "main"))
            if request.query_params.get("base_model", "true").lower() != "false" and self.card(main).get("base_model"):
                continue
            owner = repo.data["id"].split("/")[0]
            places: list[tuple[int | None, str, dict[str, Entry]]] = [(None, owner, main)]
            for pull in repo.data["discussions"]:
                if pull["isPullRequest"] and pull["status"] == "open":
                    places.append((pull["num"], pull["author"], repo.tree(repo.data["prs"][str(pull["num"])])))
            seen = set()
            for number, author, tree in places:
                for file, entry in self.scores(tree):
                    mark = (entry["dataset"]["task_id"], entry["value"])
                    if entry["dataset"]["id"] != f"{ns}/{name}" or mark in seen:
                        continue
                    seen.add(mark)
                    row = {"modelId": repo.data["id"], "value": entry["value"], "filename": file, "verified": False}
                    row |= {"author": {"type": "user", "name": author, "fullname": author, "avatarUrl": ""}}
                    row |= {"notes": entry.get("notes"), "source": entry.get("source")}
                    row |= {} if number is None else {"pullRequest": number}
                    rows.append(row)
        rows.sort(key=lambda row: -row["value"])
        return JSONResponse([{"rank": n, **row} for n, row in enumerate(rows, 1)])

    # ---------------------------------------------------------------- control

    async def control(self, request: Request, verb: str) -> Response:
        """What only tests do: accounts, faults, the log, a look at the state."""
        body = json.loads(await request.body() or b"null")
        if verb == "accounts":
            self.store.accounts |= body
            self.store.save_accounts()
        elif verb == "faults":
            self.faults.set(body)
        elif verb == "grant":
            repo = self.store.repos[body["type"], body["id"]]
            repo.data.setdefault("granted", []).append(body["user"])
            repo.save()
        elif verb == "pin":  # give main's commit the id at which the world knows it
            repo = self.store.repos[body["type"], body["id"]]
            repo.data["commits"][body["sha"]] = repo.data["commits"].pop(repo.data["branches"]["main"])
            repo.data["branches"]["main"] = body["sha"]
            repo.save()
        elif verb == "delete":
            self.store.delete(body["type"], body["id"])
        elif verb == "reset":
            self.log.clear()
            self.received = 0
        elif verb == "faulty":
            return JSONResponse({"faults": self.faults.state()})
        elif verb == "repo":  # one alone: the whole state grows to megabytes
            kind, _, name = body.partition("/")
            repo = self.store.repos.get((kind.removesuffix("s"), name))
            return JSONResponse(None if repo is None else repo.data)
        elif verb == "state":
            repos = {f"{kind}s/{name}": repo.data for (kind, name), repo in self.store.repos.items()}
            facts = {"log": self.log, "received": self.received, "faults": self.faults.state(), "repos": repos}
            return JSONResponse(facts)
        else:
            raise Problem(404, verb)
        return JSONResponse({})


async def _gently(parts: Any) -> Any:
    for part in parts:
        yield part
        await asyncio.sleep(0)


def dict_view(discussion: Json) -> Json:
    """The discussion itself, not a copy: callers change it."""
    return discussion


def front_matter(text: str) -> Json | None:
    """The YAML at the top of a card; None when there is none. ValueError when it is broken."""
    found = re.match(r"---\n(.*?)\n---(?:\n|$)", text, re.S)
    if not found:
        return None
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(data, dict):
        raise ValueError("the metadata is no mapping")
    return data


# fmt: off
LICENCES = frozenset([
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c",
    "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense",
    "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
    "llama4", "gemma", "unknown", "other",
])
COLOURS = frozenset(["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"])
# fmt: on


def card_errors(text: str, kind: str) -> list[str]:
    """What the Hub would not take in a card of a dataset, model or space; the real one checks more."""
    try:
        data = front_matter(text) or {}
    except ValueError as error:
        return [str(error)]
    errors = []
    for licence in data["license"] if isinstance(data.get("license"), list) else [data.get("license", "other")]:
        if licence not in LICENCES:
            errors.append(f'"license" must be one of the known ones, not {licence!r}')
    if not re.fullmatch(r"[a-z0-9.-]+", str(data.get("license_name", "x"))):
        errors.append('"license_name" must be lower case letters, digits, dots and hyphens')
    if not re.fullmatch(r"https://\S+|LICENSE(\.md)?", str(data.get("license_link", "LICENSE"))):
        errors.append('"license_link" must be an address or LICENSE')
    for name in ("datasets", "base_model", "language", "size_categories", "task_categories"):
        values = data.get(name) or []
        shape = r"[\w.-]+/[\w.-]+" if name in ("datasets", "base_model") else r"[A-Za-z0-9<>-]+"
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not re.fullmatch(shape, value):
                errors.append(f'"{name}" holds {value!r}')
    if kind == "space":
        if data.get("sdk") not in ("gradio", "docker", "static"):
            errors.append('"sdk" must be gradio, docker or static')
        if not {data.get("colorFrom", "red"), data.get("colorTo", "red")} <= COLOURS:
            errors.append('"colorFrom" and "colorTo" must be colours of the Hub')
        if len(str(data.get("short_description", ""))) > 60:
            errors.append('"short_description" must have at most 60 characters')
    if "tags" in data and not isinstance(data["tags"], list):
        errors.append('"tags" must be an array')
    names = [config.get("config_name") for config in data.get("configs") or []]
    if None in names:
        errors.append('"configs[0].config_name" is required')
    return errors


def check_results(data: bytes) -> None:
    entries = yaml.safe_load(data)
    if not isinstance(entries, list):
        raise Problem(400, "Invalid .eval_results file: it must be a list")
    for entry in entries:
        dataset = entry.get("dataset") or {}
        if not isinstance(entry.get("value"), int | float) or not {"id", "task_id"} <= dataset.keys():
            raise Problem(400, "Invalid .eval_results file: dataset.id, dataset.task_id and value are required")
