"""Other preloaded libraries before and after ours: what they change for the server, the keeper and
its peers don't feel."""

import glob

import pytest

import servers
from programs import STAGE, Preload, fresh_peer_ports, fresh_port
from trials import NO_ANSWER, PATIENCE, at_once, peers

pytestmark = pytest.mark.usefixtures("library")

OURS = STAGE / "preload/libsynergy.so"
# (name, where its package puts it, environment)
LIBRARIES = (
    ("faketime-absolute", "/usr/lib/*/faketime/libfaketime.so.1",
     {"FAKETIME": "2020-12-24 20:30:00"}),
    ("faketime-fast", "/usr/lib/*/faketime/libfaketime.so.1", {"FAKETIME": "+0 x10"}),
    ("faketime-slow", "/usr/lib/*/faketime/libfaketime.so.1", {"FAKETIME": "+0 x0.1"}),
    ("jemalloc", "/usr/lib/*/libjemalloc.so.2", {}),
    ("tcmalloc", "/usr/lib/*/libtcmalloc_minimal.so.4", {}),
    ("torsocks", "/usr/lib/*/torsocks/libtorsocks.so", {"TORSOCKS_ALLOW_INBOUND": "1"}),
    ("socket_wrapper", "/usr/lib/*/libsocket_wrapper.so", {}),
)
KINDS = {"tcp": servers.own_tcp("::"), "udp": servers.own_udp("::", "recvfrom")}
TORSOCKS_KIND = servers.own_tcp("0.0.0.0", 4)  # it lets nothing else be


@pytest.mark.parametrize("transport", KINDS)
@pytest.mark.parametrize("order", ("before", "after"))
@pytest.mark.parametrize("name, place, environment", LIBRARIES,
                         ids=[name for name, _, _ in LIBRARIES])
def test_beside(stand, name, place, environment, order, transport):
    found = glob.glob(place)
    if not found:
        pytest.skip(f"{name} is not installed")
    if name in ("socket_wrapper", "torsocks") and order == "before":
        pytest.skip("it asks libc itself, and passes over what stands between")
    if name == "torsocks" and transport != TORSOCKS_KIND.transport:
        pytest.skip("it forbids that itself")
    kind, port = TORSOCKS_KIND if name == "torsocks" else KINDS[transport], fresh_port()
    source_ports = fresh_peer_ports(6)
    libraries = [found[0], str(OURS)] if order == "before" else [str(OURS), found[0]]
    preload = Preload(library=" ".join(libraries), hops=stand.path.hops,
                      peers=peers(kind.family, source_ports[1], source_ports[-1]))
    server = stand.serve(kind.command(port), transport, port, preload=preload,
                         environment=environment)
    at_once(lambda source_port: kind.talk(stand, kind, server, source_port, port, PATIENCE),
            source_ports[1:])
    with pytest.raises(TimeoutError):
        kind.talk(stand, kind, server, source_ports[0], port, NO_ANSWER)
