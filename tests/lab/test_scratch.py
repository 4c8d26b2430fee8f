import time
import pytest
import clients, servers
from programs import Preload, fresh_peer_ports, fresh_port, script, wait_listening
from test_again import call
from trials import peers
from capture import Capture
pytestmark = pytest.mark.usefixtures("library")

@pytest.mark.parametrize("mode", ("late",))
def test_scratch(stand, mode):
    source_ports = fresh_peer_ports(40)
    port = fresh_port()
    program = stand.start(
        "A", ["strace", "-f", "-r", "-o", "/tmp/again/x/strace", "-e", "trace=network,close", servers.PYTHON, script("again_server.py"), port, mode], user="root", preload=Preload(
            peers=peers(6, source_ports[0], source_ports[-1]), hops=stand.path.hops, log="debug", log_file="/tmp/again/x/log"))
    wait_listening(program, "tcp", port)
    time.sleep(1.5)
    for source_port in source_ports:
        r = call(stand, source_port, port)
        open("/tmp/again/x/log", "a").write(f"RESULT {source_port} {r}\n")
        if isinstance(r, str):
            break
