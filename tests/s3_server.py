"""A small object store that speaks S3's protocol on the loopback, with one bucket and one pair of keys.

It does what a model repository asks of S3: list below a prefix, head, get, put (also only where there is none), delete;
XML errors with S3's codes; and on request it refuses to work. Signatures are not computed: a wrong key id is refused.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "store"
KEY_ID = "AKIDTEST"
SECRET = "loopback-only"


class S3Server(ThreadingHTTPServer):
    """Objects in memory, by key; ``asked`` lists what was asked for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.fails_for: str | None = None
        """It does not work for keys that end like this; nor for lists, which have none, where this is empty."""
        self.read_only = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """What a client needs to know, and not to try twice for long."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: S3Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        self._answer(status, body.encode(), Content_Type="application/xml")

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
            return data
        found = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            length = int(size.split(b";")[0], 16)
            if not length:
                break
            found, data = found + data[:length], data[length + 2 :]
        return found

    def _any(self) -> None:
        server = self.server
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self._body()
        with server.lock:
            server.asked.append((self.command, key or f"list {query.get('prefix', '')}"))
            if server.fails_for is not None and key.endswith(server.fails_for):
                self._refuse(503, "ServiceUnavailable")
            elif f"Credential={KEY_ID}/" not in (self.headers.get("Authorization") or ""):
                self._refuse(403, "InvalidAccessKeyId")
            elif bucket != BUCKET:
                self._refuse(404, "NoSuchBucket")
            elif self.command in {"PUT", "DELETE"} and server.read_only:
                self._refuse(403, "AccessDenied")
            elif not key:
                self._list(query)
            elif self.command == "PUT":
                self._put(key, body)
            elif self.command == "DELETE":
                server.objects.pop(key, None)
                self._answer(204)
            elif key not in server.objects:
                self._refuse(404, "NoSuchKey")
            else:
                self._get(*server.objects[key])

    do_GET = do_HEAD = do_PUT = do_DELETE = _any  # noqa: N815 - the library's names

    def _put(self, key: str, body: bytes) -> None:
        if self.headers.get("If-None-Match") == "*" and key in self.server.objects:
            self._refuse(412, "PreconditionFailed")
            return
        self.server.objects[key] = (body, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        self._answer(200, ETag=_etag(body))

    def _get(self, body: bytes, changed: str) -> None:
        at = datetime.fromisoformat(changed).strftime("%a, %d %b %Y %H:%M:%S GMT")
        self._answer(200, body, ETag=_etag(body), Last_Modified=at, Content_Length=str(len(body)))

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        files, folders = "", set()
        for key, (body, changed) in sorted(self.server.objects.items()):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            files += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{changed}</LastModified><ETag>{_etag(body)}</ETag>"
                f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        files += "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(folders)
        )
        document = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{files}"
            "</ListBucketResult>"
        )
        self._answer(200, document.encode(), Content_Type="application/xml")


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
