"""A small server on loopback that speaks the Hub's protocol, counts what is asked, and fails on demand.

Two ports, as the real one has two hosts: the Hub answers metadata and small files, and sends whoever wants a large file
(safetensors, ONNX) to the storage. Nothing here mentions Xet, so clients with `hf_xet` take plain HTTP.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """An answer in place of the right one, for requests whose `METHOD path` holds `where`, as often as `times`."""

    where: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000


@dataclass
class HubServer:
    """Repositories by name: branches and tags, and the files of each commit."""

    refs: dict[str, dict[str, str]] = field(default_factory=dict)  # repository -> name -> commit
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> path -> bytes
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "METHOD path [Range]", in order
    tokens: set[str] = field(default_factory=set)  # seen in Authorization, by host
    cut: dict[str, int] = field(default_factory=dict)  # path -> bytes after which the next connection is cut
    damaged: dict[str, int] = field(default_factory=dict)  # path -> how often its bytes arrive wrong
    endpoint: str = ""
    storage: str = ""

    def publish(self, repo: str, files: dict[str, bytes], *, ref: str = "main") -> str:
        """Makes a commit of these files and moves a branch to it; the commit."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode() + repo.encode(), usedforsecurity=False)
        commit = digest.hexdigest()
        self.files[commit] = files
        self.refs.setdefault(repo, {})[ref] = commit
        return commit

    def asked_for(self, text: str) -> int:
        """How many requests held `text`."""
        return sum(text in request for request in self.requests)


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".onnx", ".bin"))


def checksum(path: str, content: bytes) -> str:
    """As the Hub records it: SHA-256 of a large file, git's blob id of another."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        request = " ".join([self.command, self.path, self.headers.get("Range", "")]).strip()
        self.hub.requests.append(request)
        if "Authorization" in self.headers:
            self.hub.tokens.add(f"{self.headers['Host']} {self.headers['Authorization']}")
        fault = next((fault for fault in self.hub.faults if fault.where in request and fault.times > 0), None)
        if fault is not None:
            fault.times -= 1
            self.answer(fault.status, b"{}", fault.headers)
            return
        self.route(unquote(urlsplit(self.path).path))

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def route(self, path: str) -> None:
        raise NotImplementedError


class _Hub(_Handler):
    def route(self, path: str) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.describe(match.group(1), match.group(2) or "main")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self.list_files(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.give(*match.groups())
        else:
            self.answer(404)

    def commit_of(self, repo: str, revision: str) -> str | None:
        refs = self.hub.refs.get(repo)
        if refs is None:
            self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
            return None
        commit = refs.get(revision, revision)
        if commit not in self.hub.files:
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def describe(self, repo: str, revision: str) -> None:
        commit = self.commit_of(repo, revision)
        if commit is None:
            return
        siblings: list[dict[str, object]] = [{"rfilename": path} for path in self.hub.files[commit]]
        if "blobs=" in self.path:
            siblings = [self.sibling(path, content) for path, content in self.hub.files[commit].items()]
        self.answer(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())

    def list_files(self, repo: str, revision: str) -> None:
        commit = self.commit_of(repo, revision)
        if commit is None:
            return
        entries: list[dict[str, object]] = []
        for path, content in self.hub.files[commit].items():
            large = {"lfs": {"oid": checksum(path, content), "size": len(content), "pointerSize": 130}}
            oid = checksum("a.txt", content)
            entries.append({"type": "file", "path": path, "size": len(content), "oid": oid}
                           | (large if is_large(path) else {}))  # fmt: skip
        self.answer(200, json.dumps(entries).encode())

    def sibling(self, path: str, content: bytes) -> dict[str, object]:
        found: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": checksum("a.txt", content)}
        if is_large(path):
            found["lfs"] = {"sha256": checksum(path, content), "size": len(content), "pointerSize": 130}
        return found

    def give(self, repo: str, revision: str, path: str) -> None:
        commit = self.commit_of(repo, revision)
        if commit is None:
            return
        content = self.hub.files[commit].get(path)
        if content is None:
            self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        etag = checksum(path, content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if is_large(path):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content)),
                        "Location": f"{self.hub.storage}/{commit}/{path}"}  # fmt: skip
            self.answer(302, headers=headers)
        else:
            self.answer(200, content, headers)


class _Storage(_Handler):
    def route(self, path: str) -> None:
        commit, name = path.lstrip("/").split("/", 1)
        content = self.hub.files[commit][name]
        if self.hub.damaged.get(name, 0) > 0:
            self.hub.damaged[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match.group(1))
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self.answer(206, content[start:], headers)
        elif name in self.hub.cut:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: self.hub.cut.pop(name)])
            self.wfile.flush()
            self.close_connection = True
        else:
            self.answer(200, content)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running server; it is gone afterwards."""
    hub = HubServer()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (kind,), {"hub": hub})) for kind in (_Hub, _Storage)]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
