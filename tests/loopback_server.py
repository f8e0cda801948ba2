"""A web server on 127.0.0.1 that serves small pictures well, and badly in every way a downloader meets.

`/jpg/17`, `/png/17`, `/gif/17`, `/webp/17`, `/bmp/17` are pictures, a different one for every name; the other first
parts of a path are the functions below that are marked as a behaviour.  `server.files` holds whole files by their path,
which can be asked for in ranges.
"""

import gzip
import io
import random
import re
import threading
import time
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import NamedTuple

from PIL import Image

BEHAVIOURS = {}


def behaviour(function):
    BEHAVIOURS[function.__name__] = function
    return function


class File(NamedTuple):
    """A whole file of the server, with the ways servers differ in answering for a part of it."""

    body: bytes
    etag: str | None = '"1"'
    ranges: bool = True  # False: sends all of it, whatever was asked
    heeds_if_range: bool = True
    breaks_after: int | None = None  # bytes in one answer, then the connection ends
    type: str = "application/octet-stream"


class LoopbackServer(ThreadingHTTPServer):
    request_queue_size, daemon_threads, block_on_close = 256, True, False

    def __init__(self, latency: float = 0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.latency, self.stopping = latency, threading.Event()
        self.asked = Counter()  # how often each path
        self.ranges = []  # (path, Range, status) of every file answered
        self.agents = set()
        self.files: dict[str, File] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Clients that leave in the middle are what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackServer

    def do_GET(self):
        time.sleep(self.server.latency)
        self.server.asked[self.path] += 1
        self.server.agents.add(self.headers["User-Agent"])
        kind, _, name = self.path.lstrip("/").partition("/")
        if self.path in self.server.files:
            self.send_file(self.server.files[self.path])
        elif kind.upper() in ("JPG", "PNG", "GIF", "WEBP", "BMP"):
            self.send(picture(name, kind))
        elif kind.isdigit():
            self.send(b"no", int(kind))
        else:
            BEHAVIOURS[kind](self, name)

    def send(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.begin(status, **{"Content-Length": str(len(body) if length is None else length)}, **headers)
        self.wfile.write(body)
        self.close_connection |= length is not None

    def begin(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def send_file(self, file: File) -> None:
        wanted, first, status, total = self.headers["Range"], 0, 200, len(file.body)
        headers = {"Content_Type": file.type} | ({"ETag": file.etag} if file.etag else {})
        same = (self.headers["If-Range"] or None) in (None, file.etag) or not file.heeds_if_range
        if wanted and file.ranges and same:
            first, status = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]), 206
            headers["Content_Range"] = f"bytes {first}-{total - 1}/{total}"
            if first >= total:
                status, headers["Content_Range"] = 416, f"bytes */{total}"
        self.server.ranges.append((self.path, wanted, status))
        body = b"" if status == 416 else file.body[first:]
        self.send(body[: file.breaks_after], status, length=len(body), **headers)

    def first_time(self) -> bool:
        return self.server.asked[self.path] == 1

    def log_message(self, *_):
        pass


def picture(name: str, kind: str = "jpg") -> bytes:
    """A small picture that depends on the name: smooth, so that JPEG keeps it apart, and with noise."""
    noise = random.Random(zlib.crc32(name.encode()))
    image = Image.frombytes("RGB", (8, 6), noise.randbytes(8 * 6 * 3)).resize((40, 30), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG"}.get(kind.lower(), kind), **({"lossless": True} if kind == "webp" else {}))
    return file.getvalue()


@behaviour
def flaky(handler, name):
    """500, then 200."""
    handler.send(b"", 500) if handler.first_time() else handler.send(picture(name))


@behaviour
def busy(handler, name):
    """429 with Retry-After, then 200."""
    handler.send(b"", 429, Retry_After="1") if handler.first_time() else handler.send(picture(name))


@behaviour
def busy_for_hours(handler, name):
    handler.send(b"", 429, Retry_After="7200")


@behaviour
def busy_for_nonsense(handler, name):
    handler.send(b"", 429, Retry_After="soon") if handler.first_time() else handler.send(picture(name))


@behaviour
def hang(handler, name):
    handler.server.stopping.wait(60)


@behaviour
def drip(handler, name):
    handler.begin(Content_Length="1000000")
    for _ in repeat(None):
        handler.wfile.write(b"\xff")
        time.sleep(0.05)


@behaviour
def drip_headers(handler, name):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in repeat(None):
        handler.wfile.write(b"z")
        time.sleep(0.05)


@behaviour
def slow(handler, name):
    """A good picture in two halves, a tenth of a second apart."""
    body = picture(name)
    handler.begin(Content_Length=str(len(body)))
    handler.wfile.write(body[: len(body) // 2])
    time.sleep(0.1)
    handler.wfile.write(body[len(body) // 2 :])


@behaviour
def breaks(handler, name):
    """Ends in the middle of the announced length, every time."""
    body = picture(name)
    handler.send(body[: len(body) // 2], length=len(body))


@behaviour
def breaks_once(handler, name):
    breaks(handler, name) if handler.first_time() else handler.send(picture(name))


@behaviour
def breaks_silently(handler, name):
    """Half a picture without any announced length: looks complete."""
    handler.begin(Connection="close")
    handler.wfile.write(picture(name)[:400])
    handler.close_connection = True


@behaviour
def cut(handler, name):
    """Half a JPEG, announced as just that."""
    body = picture(name)
    handler.send(body[: len(body) // 2], Content_Type="image/jpeg")


@behaviour
def html(handler, name):
    handler.send(b"<!DOCTYPE html><html><body>Gone fishing</body></html>", Content_Type="image/jpeg")


@behaviour
def empty(handler, name):
    handler.send(b"", Content_Type="image/jpeg")


@behaviour
def closes(handler, name):
    handler.close_connection = True


@behaviour
def no_http(handler, name):
    handler.wfile.write(b"220 mail.example.org ESMTP\r\n")
    handler.close_connection = True


@behaviour
def redirect(handler, name):
    handler.send(b"over there", 302, Location=f"/jpg/{name}")


@behaviour
def loop(handler, name):
    handler.send(b"", 302, Location=handler.path)


@behaviour
def to_file(handler, name):
    handler.send(b"", 302, Location="file:///etc/hostname")


@behaviour
def to_nonsense(handler, name):
    handler.send(b"", 302, Location="http://[::1")


def send_endless(handler):
    for _ in repeat(None):
        handler.wfile.write(bytes(1 << 16))


@behaviour
def endless(handler, name):
    handler.begin(Content_Type="image/jpeg")
    send_endless(handler)


@behaviour
def endless_redirect(handler, name):
    handler.begin(302, Location=f"/jpg/{name}")
    send_endless(handler)


@behaviour
def endless_error(handler, name):
    handler.begin(503)
    send_endless(handler)


@behaviour
def huge(handler, name):
    """Announces 10 GB."""
    handler.begin(Content_Length=str(10**10))
    send_endless(handler)


@behaviour
def zipped_bomb(handler, name):
    """Small on the wire, 200 MB when unpacked."""
    handler.send(ZIPPED_ZEROS, Content_Encoding="gzip")


@behaviour
def pixel_bomb(handler, name):
    """A PNG of a few hundred kilobytes with 900 million pixels."""
    handler.send(PIXEL_BOMB, Content_Type="image/png")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


BOMB_SIDE = 30_000  # pixels of one bit
PIXEL_BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", BOMB_SIDE.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00")
    + png_chunk(b"IDAT", zlib.compress(bytes((BOMB_SIDE // 8 + 1) * BOMB_SIDE), 1))
    + png_chunk(b"IEND", b"")
)
ZIPPED_ZEROS = gzip.compress(bytes(200_000_000), 1)
