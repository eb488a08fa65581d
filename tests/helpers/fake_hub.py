"""A local Hub server: answers the requests of huggingface_hub from memory, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


@dataclass
class Repo:
    """A model repository: files by commit, commits by branch.

    Attributes:
        commits: content of every file by path, for each commit hash.
        refs: commit hash of each branch or tag.
        token: token required for reading. Empty if anyone can read.
        gated: whether readers must accept the terms.
        private: whether it was created as private.
        messages: messages of pushed commits.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str = ""
    gated: bool = False
    private: bool = False
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files to a branch."""
        sha = hashlib.sha1(f"{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[branch] = sha
        return sha


@dataclass(frozen=True)
class Seen:
    """An answered request, with the number of body bytes sent."""

    method: str
    path: str
    status: int
    sent: int
    range: str | None


class Hub:
    """The state of the server.

    Attributes:
        repos: the repositories, by ``org/name``.
        seen: every request.
        drops: by file name, the number of body bytes after which each response is cut off, one number per response.
        held: by file name, an event to set when half of the file is sent. The rest is never sent.
        ranges: whether range requests are supported.
        answer: status, headers, and body that replace every response.
        uploads: uploaded large files, by SHA-256.
        url: URL of the server.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.seen: list[Seen] = []
        self.drops: dict[str, list[int]] = {}
        self.held: dict[str, threading.Event] = {}
        self.ranges = True
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self.uploads: dict[str, bytes] = {}
        self.url = ""

    def add(self, name: str, folder: Path, branch: str = "main") -> str:
        """Add a commit with the files of a folder."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repos.setdefault(name, Repo()).commit(files, branch)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment variables for a user of this Hub with the cache in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0", **more}

    def used_here(self, monkeypatch: Any, home: Path) -> None:
        """Make this process use the server, although huggingface_hub has already read its environment variables."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        pattern = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def sent(self, ending: str = "") -> int:
        """Return the number of body bytes sent for files whose paths have this ending."""
        return sum(item.sent for item in self.seen if item.path.endswith(ending))

    def fetched(self, ending: str) -> list[str]:
        """Return the names of completely sent files with this ending."""
        files = {
            name: len(data) for repo in self.repos.values() for c in repo.commits.values() for name, data in c.items()
        }
        totals: dict[str, int] = {}
        for item in self.seen:
            name = item.path.partition("/resolve/")[2].partition("/")[2]
            if item.method == "GET" and name.endswith(ending):
                totals[name] = totals.get(name, 0) + item.sent
        return sorted(name for name, sent in totals.items() if sent >= files[name])


@contextmanager
def running() -> Iterator[Hub]:
    """Run a Hub server until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Refused(Exception):
    """An error response: status, code, and message."""


class Handler(BaseHTTPRequestHandler):
    """Handles one request. The paths are the same as on huggingface.co."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Log nothing, because `Hub.seen` has all requests."""

    def do_GET(self) -> None:
        self._respond()

    do_HEAD = do_POST = do_PUT = do_GET

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        try:
            status, headers, data = (not path.endswith("/agent-harnesses") and self.hub.answer) or self._answer(
                path, body
            )
        except Refused as refusal:
            status, code, message = refusal.args
            headers, data = {"X-Error-Code": code, "X-Error-Message": message}, json.dumps({"error": message}).encode()
        self._send(path, status, headers, data)

    def _send(self, path: str, status: int, headers: Mapping[str, str], data: bytes) -> None:
        cut = self.hub.drops.get(path.rpartition("/")[2]) if self.command == "GET" and status in (200, 206) else None
        part = data[: cut.pop(0)] if cut else data
        sent = 0 if self.command == "HEAD" else len(part)
        self.hub.seen.append(Seen(self.command, path, status, sent, self.headers.get("Range")))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            if held := self.hub.held.get(path.rpartition("/")[2]) if len(data) > 10_000 else None:
                self.wfile.write(part[: len(part) // 2])
                held.set()
                self.rfile.read(1)  # until the client disconnects
                return
            self.wfile.write(part)
        if len(part) < len(data):
            self.wfile.flush()
            self.close_connection = True

    def _answer(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {urlsplit(self.path).path}"):
                return method(self, body, **{key: value and unquote(value) for key, value in match.groupdict().items()})
        raise Refused(404, "", f"no such page: {path}")

    def _repo(self, name: str, files: bool = False) -> Repo:
        repo, token = self.hub.repos.get(name), self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == "wrong":
            raise Refused(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.token and not repo.gated and token != repo.token):
            raise Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if files and repo.gated and token != repo.token:
            raise Refused(403 if token else 401, "GatedRepo", "Access to model is restricted")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def info(self, body: bytes, repo: str, revision: str | None = None) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        sha = self._commit(found, revision or "main")
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        files = [
            {"rfilename": name, **({"size": len(data)} if blobs else {})} for name, data in found.commits[sha].items()
        ]
        return as_json({"id": repo, "sha": sha, "private": found.private, "siblings": files, "tags": []})

    def tree(self, body: bytes, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        files = found.commits[self._commit(found, revision)].items()
        return as_json([{"type": "file", "path": name, "size": len(data), "oid": digest(data)} for name, data in files])

    def create(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        wanted = json.loads(body)
        if self.headers.get("Authorization") != "Bearer writer":
            raise Refused(401, "", "Invalid username or password.")
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        status = 409 if name in self.hub.repos else 200
        if status == 200:
            self.hub.repos[name] = Repo(private=wanted.get("private", wanted.get("visibility") == "private"))
            self.hub.repos[name].commit({".gitattributes": b""})
        return status, *as_json({"url": f"{self.hub.url}/{name}"})[1:]

    def branch(self, body: bytes, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo)
        if revision in found.refs:
            raise Refused(409, "", "Reference already exists")
        found.commit(found.commits[found.refs["main"]], revision)
        return as_json({})

    def valid(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return as_json({"errors": [], "warnings": []})

    def modes(self, body: bytes, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        """Upload weights through LFS and everything else in the commit."""
        files = [item["path"] for item in json.loads(body)["files"]]
        kinds = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
        return as_json({"files": [{"path": n, "uploadMode": kind, "shouldIgnore": False} for n, kind in kinds.items()]})

    def batch(self, body: bytes, repo: str) -> tuple[int, dict[str, str], bytes]:
        objects = json.loads(body)["objects"]
        places = {item["oid"]: {"upload": {"href": f"{self.hub.url}/upload/{item['oid']}"}} for item in objects}
        return as_json({"transfer": "basic", "objects": [{**item, "actions": places[item["oid"]]} for item in objects]})

    def upload(self, body: bytes, oid: str) -> tuple[int, dict[str, str], bytes]:
        self.hub.uploads[oid] = body
        return as_json({})

    def made(self, body: bytes, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        """Handle a commit: lines of JSON, each with a file to add or delete."""
        found = self._repo(repo)
        files = dict(found.commits[self._commit(found, revision)])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                found.messages.append(value["summary"])
        sha = found.commit(files, revision)
        return as_json({"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def resolve(self, body: bytes, repo: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        found = self._repo(repo, files=True)
        sha = self._commit(found, revision)
        data = found.commits[sha].get(name)
        if data is None:
            raise Refused(404, "EntryNotFound", f"Entry not found: {name}")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{digest(data)}"', "Accept-Ranges": "bytes"}
        headers["X-Linked-Size"] = str(len(data))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted or not self.hub.ranges:
            return 200, headers, data
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if start >= len(data):
            raise Refused(416, "", "range")
        return 206, {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1]


def as_json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = {
    rf"GET /api/models/{REPO}(/revision/(?P<revision>[^/]+))?": Handler.info,
    rf"GET /api/models/{REPO}/tree/(?P<revision>.+)": Handler.tree,
    r"POST /api/repos/create": Handler.create,
    r"POST /api/validate-yaml": Handler.valid,
    rf"POST /api/models/{REPO}/branch/(?P<revision>.+)": Handler.branch,
    rf"POST /api/models/{REPO}/preupload/(?P<revision>.+)": Handler.modes,
    rf"POST /api/models/{REPO}/commit/(?P<revision>.+)": Handler.made,
    rf"POST /{REPO}\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /upload/(?P<oid>\w+)": Handler.upload,
    rf"(GET|HEAD) /{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)": Handler.resolve,
}
"""Method and path → the handler."""
