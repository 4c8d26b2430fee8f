"""What accept() writes to the caller's memory, for a punched connection as for an ordinary one."""

import pytest

import clients
import servers
from programs import Preload, fresh_peer_ports, fresh_port, script
from trials import PATIENCE, peers

pytestmark = pytest.mark.usefixtures("library")


@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("room", (0, 2, 16, 27))
def test_short_room(stand, room, family):
    """Zeros are what stands there most often, and what much of an address is made of."""
    port, sources = fresh_port(), fresh_peer_ports(4)
    stand.serve([servers.PYTHON, script("room_server.py"), port, room], "tcp", port,
                preload=Preload(peers=peers(family, sources[0], sources[-1]), hops=stand.path.hops))
    for source in sources:
        client = clients.tcp_client(stand, family, source, port, PATIENCE)
        assert client.receive_until("\n") == "0 beyond, length 28\n"
        client.close()
