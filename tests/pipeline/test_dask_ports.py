"""Ports of Dask: on the loopback interface, for clients with the certificate only."""

from __future__ import annotations

import logging
import socket
import ssl
import urllib.error
import urllib.request

import psutil
import pytest

from hpc.dask_executor import Workers, on_this_machine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """An executor on one worker, the port of its scheduler, and the addresses at which something listened before."""
    before = listening()
    with on_this_machine(Workers(), 1, 1e8) as executor:
        yield executor, int(executor._client.scheduler.address.rpartition(":")[2]), before


def listening():
    """Addresses at which this process and its children listen."""
    mine = psutil.Process()
    family = [mine, *mine.children(recursive=True)]
    return {c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}


def test_every_port_is_on_the_loopback_interface_and_shows_no_page(cluster):
    executor, _, before = cluster
    ports = listening() - before
    assert len(ports) >= 3  # scheduler, nanny, worker
    assert {address.ip for address in ports} == {"127.0.0.1"}
    for address in ports:
        for page in ("", "status", "json/counts.json", "info/main/workers.html", "api/v1/get_workers"):
            with pytest.raises((urllib.error.URLError, OSError)):  # 404 of the web servers, no answer of the others
                urllib.request.urlopen(f"http://127.0.0.1:{address.port}/{page}", timeout=5)
    assert executor.submit(abs, -1).result(60) == 1


def test_connections_without_certificate_are_refused(cluster):
    from distributed import Client
    from distributed.security import Security

    executor, port, _ = cluster
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    for address, security in ((f"tls://127.0.0.1:{port}", Security.temporary()), (f"tcp://127.0.0.1:{port}", None)):
        with pytest.raises((OSError, TimeoutError)):
            Client(address, security=security, timeout=3)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a stranger who trusts anyone
    plain = socket.create_connection(("127.0.0.1", port), 5)
    with context.wrap_socket(plain) as stranger:
        try:
            answer = stranger.recv(64)  # the server closes when no certificate comes
        except (ssl.SSLError, ConnectionError):
            answer = b""
    assert answer == b""
    assert executor.submit(abs, -2).result(60) == 2


def test_the_dashboard_is_on_the_loopback_interface_when_it_is_asked_for(caplog):
    caplog.set_level(logging.INFO)
    with on_this_machine(Workers(dashboard=True), 1, 1e8):
        (line,) = [message for message in caplog.messages if message.startswith("dashboard")]
        url = line.split()[1].rstrip(";")
        assert url.startswith("http://127.0.0.1:")
        assert f"ssh -L {url.split(':')[2].split('/')[0]}:127.0.0.1:" in line
        with urllib.request.urlopen(url, timeout=30) as page:
            assert b"Dask" in page.read()
