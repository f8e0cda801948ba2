"""Limits of time and bytes that hold whatever a server does, because they are kept where bytes leave the socket.

The timeouts of requests are for one read: a server that sends a byte now and then, in the body or already in the
headers, never meets them.  And what requests reads by itself (bodies of redirects and of answers to be tried again)
has no end of its own.
"""

import http.client
import io
import math
import time
from contextvars import ContextVar

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry


class DownloadError(Exception):
    """A download that failed: `reason` in a few words, the same for all failures of a kind, and perhaps a detail."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Limits:
    """What a download may take: seconds in all, tries and waits included, and bytes in each try."""

    def __init__(self, seconds: float = math.inf, max_bytes: float = math.inf):
        self.seconds, self.deadline = seconds, time.monotonic() + seconds
        self.max_bytes, self.received = max_bytes, 0

    def time_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DownloadError("timed out", f"not done after {self.seconds:g} s")
        return left

    def count(self, received: int) -> None:
        self.received += received
        self.check_size(self.received)

    def check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise DownloadError("too large", f"more than {self.max_bytes / 1e6:g} MB")


LIMITS: ContextVar[Limits] = ContextVar("limits", default=Limits())  # of the download that this thread is at  # noqa: B039


class LimitedReader(io.RawIOBase):
    """The receiving side of a socket under the limits of the current download."""

    def __init__(self, sock, raw: io.RawIOBase):
        self.sock, self.raw, self.read_timeout = sock, raw, sock.gettimeout() or math.inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        limits = LIMITS.get()
        seconds = min(self.read_timeout, limits.time_left())
        self.sock.settimeout(None if seconds == math.inf else seconds)
        try:
            received = self.raw.readinto(buffer)
        except TimeoutError:
            limits.time_left()  # the whole download's time is up, not just this read's
            raise
        limits.count(received or 0)
        return received

    def close(self) -> None:
        self.raw.close()
        super().close()


class LimitedResponse(http.client.HTTPResponse):
    def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(LimitedReader(sock, self.fp.detach()), 1 << 16)


class LimitedConnection(HTTPConnection):
    response_class = LimitedResponse


class LimitedTLSConnection(HTTPSConnection):
    response_class = LimitedResponse


class LimitedPool(HTTPConnectionPool):
    ConnectionCls = LimitedConnection


class LimitedTLSPool(HTTPSConnectionPool):
    ConnectionCls = LimitedTLSConnection


class LimitedAdapter(HTTPAdapter):
    """requests' adapter over such connections, direct or through a proxy."""

    def init_poolmanager(self, *args, **kwargs) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": LimitedPool, "https": LimitedTLSPool}

    def proxy_manager_for(self, proxy, **kwargs):
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # those have connections of their own
            manager.pool_classes_by_scheme = {"http": LimitedPool, "https": LimitedTLSPool}
        return manager


class LimitedRetry(Retry):
    """urllib3's Retry, but no wait, nor one that a server asks for, goes beyond the time of the download."""

    def sleep(self, response=None) -> None:
        asked = self.get_retry_after(response) if response is not None else None
        wait, left = asked or self.get_backoff_time(), LIMITS.get().time_left()
        if wait >= left and asked:
            raise DownloadError(f"HTTP {response.status}", f"asks to wait {asked:.0f} s")
        time.sleep(min(wait, left))

    def get_retry_after(self, response) -> float | None:
        try:
            return super().get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError):
            return None  # not a number, nor a date
