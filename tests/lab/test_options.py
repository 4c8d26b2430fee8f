"""What the listener has, the connection has: options and protections."""

import json
import pathlib
import re
import socket
import struct
import subprocess
import time

import pytest

import clients
import firewall
import namespace
import sctp
import servers
from programs import SCRATCH, SETTLING, STAGE, Preload, fresh_peer_ports, fresh_port, script
from topology import PEER, SERVER
from trials import NO_ANSWER, PATIENCE, at_once, peers, skip_if_impossible

pytestmark = pytest.mark.usefixtures("library")

SOCKET, TCP, IP, IPV6, SCTP = (socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP,
                               socket.IPPROTO_IPV6, socket.IPPROTO_SCTP)


def number(value):
    return struct.pack("i", value)


# (level, name): a value that no new socket has. Numbers that Python does not know are those of
# linux/tcp.h, linux/in6.h and asm-generic/socket.h.
BUFFERS = {(SOCKET, socket.SO_RCVBUF): number(150000), (SOCKET, socket.SO_SNDBUF): number(90000)}
SEGMENT = {(TCP, socket.TCP_MAXSEG): number(1000)}
WINDOW = {(TCP, socket.TCP_WINDOW_CLAMP): number(20000)}
CONGESTION = {(TCP, socket.TCP_CONGESTION): b"reno"}
OF_A_USER = {
    (SOCKET, 5): number(0), (SOCKET, 6): number(1), (SOCKET, 9): number(1), (SOCKET, 10): number(1),
    (SOCKET, 13): struct.pack("ii", 1, 9), (SOCKET, 20): struct.pack("qq", 70, 500000),
    (SOCKET, 21): struct.pack("qq", 80, 500000), (SOCKET, 29): number(1), (SOCKET, 35): number(1),
    (SOCKET, 37): number(0x18), (SOCKET, 40): number(1), (SOCKET, 45): number(1),
    (SOCKET, 47): struct.pack("Q", 50000000), (SOCKET, 60): number(1), (SOCKET, 74): number(0),
    (TCP, 1): number(1), (TCP, 4): number(77), (TCP, 5): number(11), (TCP, 6): number(3),
    (TCP, 7): number(4), (TCP, 8): number(20), (TCP, 16): number(1), (TCP, 18): number(12345),
    (TCP, 25): number(100000), (TCP, 36): number(1),
    (IP, 1): number(0x10), (IP, 2): number(99), (IP, 6): number(1), (IP, 8): number(1),
    (IP, 10): number(2), (IP, 11): number(1), (IP, 12): number(1), (IP, 13): number(1),
    (IP, 15): number(1), (IP, 20): number(1), (IP, 21): number(3),
}
OF_IPV6 = {
    (IPV6, 16): number(98), (IPV6, 23): number(2), (IPV6, 25): number(1), (IPV6, 49): number(1),
    (IPV6, 51): number(1), (IPV6, 66): number(1), (IPV6, 67): number(0x20), (IPV6, 73): number(3),
}
OF_ROOT = {(SOCKET, 12): number(9), (SOCKET, 36): number(1234), (SOCKET, 46): number(30),
           (SOCKET, 75): number(1), (IP, 19): number(1)}
# A SYN that came may have asked for less than what was set: nothing to compare with.
SETS = {"none": {}, "many": OF_A_USER, "buffers": BUFFERS, "segment": SEGMENT, "window": WINDOW,
        "congestion": CONGESTION}

MOMENTS = ("before", "after", "unseen")

# What a connection says of itself and of its moment, and not of its listener.
OWN_AFFAIR = {
    *((SOCKET, name) for name in (4, 28, 49, 55, 56, 57)),
    *((SCTP, name) for name in (9, 14, 15, 26, 28, 29, *range(108, 113), 115, 116, 117)),
    *((TCP, name) for name in (11, 24, 26, 30, 35)),
    *((IP, name) for name in (9, 14, 32, 33, 41, 48, 52)),
    *((IPV6, name) for name in (1, 6, 17, 18, 24, 61, 64, 65)),
}


def listener(address, port, protocol=0, **options):
    """`options` are those to be set before, after and unseen (options_server.py)."""
    return {"address": address, "port": port, "protocol": protocol,
            **{when: [[*key, value.hex()] for key, value in options.get(when, {}).items()]
               for when in MOMENTS}}


def serve(stand, listeners, preload, user="nobody"):
    program = stand.start("A", [servers.PYTHON, script("options_server.py"), json.dumps(listeners)],
                          preload=preload, user=user)
    program.wait_for("listens")
    if preload and any(listener["after"] + listener["unseen"] for listener in listeners):
        time.sleep(SETTLING)  # the holes are there
    program.write("\n")
    program.wait_for("ready")
    return program


def options_seen(stand, family, source_port, port, timeout=PATIENCE, client=clients.tcp_client):
    with client(stand, family, source_port, port, timeout) as client:
        answer = json.loads(client.receive_until("\n"))
    address = PEER[family]
    assert answer["peer"][0].removeprefix("::ffff:") == address
    assert answer["peer"][1] == source_port
    return answer["options"]


def pace(options):
    """What of struct tcp_info makes a connection faster or slower than another one."""
    info = bytes.fromhex(options[f"{TCP}/11"])
    (snd_mss, rcv_mss), (pmtu, rcv_ssthresh) = (struct.unpack_from("2I", info, at)
                                                for at in (16, 60))
    rcv_ssthresh = round(rcv_ssthresh / 4000)  # whole segments, or whole units of the scale
    snd_ssthresh, snd_cwnd, advmss, reordering = struct.unpack_from("4I", info, 76)
    (rcv_space,) = struct.unpack_from("I", info, 96)
    options_and_scales = info[5:7]
    assert pmtu == 1500 and snd_cwnd >= 10  # the offsets are right
    return (options_and_scales, snd_mss, rcv_mss, pmtu, rcv_ssthresh, snd_ssthresh, snd_cwnd,
            advmss, reordering, rcv_space)


SHARED_PORT = f"{SOCKET}/{socket.SO_REUSEPORT}"


def differences(cases, punched, ordinary):
    different = {}
    for case, one, other in zip(cases, punched, ordinary):
        for key in one:
            level, _, name = key.partition("/")
            if (int(level), int(name)) not in OWN_AFFAIR and one[key] != other[key]:
                different[(*case, key)] = (one[key], other[key])
    return different


@pytest.mark.other_users
@pytest.mark.parametrize("user", ("nobody", "root"))
@pytest.mark.parametrize("kind", (("::", 6), ("0.0.0.0", 4), ("::", 4)),
                         ids=("IPv6", "IPv4", "v4-mapped"))
def test_options(stand, kind, user):
    """Every option that there is, of a punched connection and of an ordinary one."""
    address, family = kind
    sets = dict(SETS)
    if ":" in address:
        sets["many"] = {**sets["many"], **OF_IPV6}
    if user == "root":
        sets["many"] = {**sets["many"], **OF_ROOT}
    cases = [(name, when) for name in sets for when in ("before", "after")]
    listeners = [listener(address, fresh_port(), **{when: sets[name]}) for name, when in cases]
    source_ports, others = fresh_peer_ports(len(cases)), fresh_peer_ports(len(cases))
    program = serve(stand, listeners, Preload(
        peers=peers(family, source_ports[0], source_ports[-1]), hops=stand.path.hops), user)

    def seen(ports):
        return at_once(lambda pair: options_seen(stand, family, pair[0], pair[1]["port"]),
                       list(zip(ports, listeners)))

    punched = seen(source_ports)
    firewall.set_profile(stand.path, "open")
    ordinary = seen(others)
    assert "nothing is punched" not in program.stderr()

    # The settings mean something: an ordinary connection has them.
    default = ordinary[cases.index(("none", "before"))]
    changed = {key for case in ordinary for key in case if case[key] != default[key]}
    assert len(changed) > 30
    assert list(map(pace, punched)) == list(map(pace, ordinary))
    # The server has not set it. (Ordinary ones have it while the library lets punches leave from the
    # listener's port; a punched one that kept it would let others have the port for as long as it is
    # there.)
    assert not any(int(case.pop(SHARED_PORT), 16) for case in punched)
    assert differences(cases, punched, ordinary) == {}


def md5_key(address, secret=b"secret"):
    """struct tcp_md5sig (linux/tcp.h)."""
    peer = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0,
                       socket.inet_pton(socket.AF_INET6, address), 0)
    return peer.ljust(128, b"\0") + struct.pack("=xxHxxxx", len(secret)) + secret.ljust(80, b"\0")


PROTECTIONS = {
    "keys": ((TCP, 14), md5_key(PEER[6]), "nobody"),
    "a socket filter": ((SOCKET, 26), struct.pack("HBBI", 6, 0, 0, 0), "root"),
    "TCP_SAVE_SYN": ((TCP, 27), number(1), "nobody"),
    "keys or header options": ((IPV6, 54), struct.pack("8B", 0, 0, 1, 4, 0, 0, 0, 0), "root"),
}


@pytest.mark.complains
@pytest.mark.other_users
@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("what", PROTECTIONS)
def test_what_cannot_be_given(stand, what, when):
    """A peer that the listener would not have taken, or not so, does not get in past it; and one
    line says why. With the option gone the same peer gets in (test_options)."""
    key, value, user = PROTECTIONS[what]
    if (what, when) == ("a socket filter", "unseen"):
        pytest.skip("its instructions lie elsewhere")
    if what == "keys" and when != "unseen":
        pytest.skip("keys that were seen can be given: test_signatures")
    source_ports = fresh_peer_ports(3)
    port = fresh_port()
    program = serve(stand, [listener("::", port, **{when: {key: value}})],
                    Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                            hops=stand.path.hops), user)

    def is_let_in(source_port):
        try:
            options_seen(stand, 6, source_port, port, NO_ANSWER)
            return True
        except OSError:
            return False

    assert at_once(is_let_in, source_ports) == [False] * 3
    said = [line for line in program.stderr().splitlines() if "nothing is punched" in line]
    assert len(said) == 1
    assert what in said[0]


@pytest.mark.parametrize("when", ("before", "after"))
@pytest.mark.parametrize("kind", (("::", 6), ("0.0.0.0", 4), ("::", 4)),
                         ids=("IPv6", "IPv4", "v4-mapped"))
def test_least_hop_limit(stand, kind, when):
    """GTSM (RFC 5082): who starts too low to be heard by the listener is not heard by a punch."""
    address, family = kind
    level, least, own = (IPV6, 73, 16) if family == 6 else (IP, 21, 2)
    source_ports, port = fresh_peer_ports(4), fresh_port()
    serve(stand, [listener(address, port, **{when: {(level, least): number(200)}})],
          Preload(peers=peers(family, source_ports[0], source_ports[-1]), hops=stand.path.hops))

    def is_let_in(pair):
        source_port, hop_limit = pair
        with namespace.open_socket(stand.path.namespace("B"), clients.AF[family],
                                   socket.SOCK_STREAM) as sock:
            sock.setsockopt(level, own, hop_limit)
            sock.bind((PEER[family], source_port))
            sock.settimeout(NO_ANSWER if hop_limit == 64 else PATIENCE)
            try:
                sock.connect((SERVER[family], port))
                return sock.recv(100) != b""
            except TimeoutError:
                return False

    hop_limits = (64, 255, 64, 255)
    assert at_once(is_let_in, list(zip(source_ports, hop_limits))) == [
        hop_limit == 255 for hop_limit in hop_limits]


@pytest.mark.parametrize("kind", (("::", 6), ("0.0.0.0", 4), ("::", 4)),
                         ids=("IPv6", "IPv4", "v4-mapped"))
def test_least_hop_limit_of_a_peer(stand, kind):
    """The other way round: the first answer too starts where the listener's would."""
    address, family = kind
    level, least, own = (IPV6, 73, 16) if family == 6 else (IP, 21, 2)
    starts = (64, 255)
    listeners = [listener(address, fresh_port(), **{when: {(level, own): number(start)}})
                 for start in starts for when in ("before", "after")]
    source_ports = fresh_peer_ports(len(listeners))
    serve(stand, listeners, Preload(peers=peers(family, source_ports[0], source_ports[-1]),
                                    hops=stand.path.hops))

    def is_heard(pair):
        source_port, server = pair
        with clients.prepared_client(stand, family, source_port) as sock:
            sock.setsockopt(level, least, 200)
            sock.settimeout(PATIENCE if server in listeners[2:] else NO_ANSWER)
            try:
                sock.connect((SERVER[family], server["port"]))
                return sock.recv(100) != b""
            except TimeoutError:
                return False

    assert at_once(is_heard, list(zip(source_ports, listeners))) == [False, False, True, True]


APACHE_MODULES = pathlib.Path("/usr/lib/apache2/modules")


def apache_command(port):
    home = SCRATCH / f"apache-{port}"
    home.mkdir(parents=True, exist_ok=True)
    (home / "hello.txt").write_text("hello from the server\n", encoding="ascii")
    modules = ("mpm_event", "authz_core")
    (home / "httpd.conf").write_text("\n".join([
        *(f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so" for name in modules),
        "ServerName localhost", f"Listen [::]:{port}", f"DocumentRoot {home}", f"PidFile {home}/pid",
        "User www-data", "Group www-data", "StartServers 1", "ServerLimit 1", "ThreadsPerChild 4",
        "MaxRequestWorkers 4", "ErrorLog /dev/null", ""]), encoding="ascii")
    return ["apache2", "-d", home, "-f", home / "httpd.conf", "-DFOREGROUND"]


def talk_apache(stand, server, _program, source_port, port, timeout):
    with server.client(stand, server.family, source_port, port, timeout) as client:
        client.send("GET /hello.txt HTTP/1.0\r\n\r\n")
        assert "hello from the server" in client.receive_all()


APACHE = servers.Server("apache", talk_apache, apache_command, tools=("apache2",), user="root",
                        other_users=True)


def asking(transport, address, family):
    client = {"tcp": clients.tcp_client, "sctp": clients.sctp_client}[transport]
    return servers.Server(
        f"{transport} on {address} for {family}", servers.talk_with_own_server, family=family,
        transport=transport, client=client,
        command=lambda port: [servers.PYTHON, script("asking_server.py"), transport, address, port])


ASKING = [asking(transport, address, family) for transport in ("tcp", "sctp")
          for address, family in (("::", 6), ("0.0.0.0", 4), ("::", 4))]


# Linux sets its two bits of IP_TOS with the first packet that an association sends after its INIT,
# which is sooner where it has sent the INIT, and not at all where it has forgotten that the peer knows
# ECN (below).
ECN_OF_SCTP = f"getsockopt level {IP} name {socket.IP_TOS} "


@pytest.mark.other_users
@pytest.mark.parametrize("server", (servers.HTTP_SERVER, servers.NGINX, APACHE, *ASKING),
                         ids=lambda server: server.name)
def test_what_a_server_sees(stand, server):
    """The results of all its calls that tell of a connection, or change it, with a punched one and
    with an ordinary one."""
    skip_if_impossible(server)
    if server.transport == "sctp":
        sctp.skip_if_missing()
    port, (source_port,), (other,) = fresh_port(), fresh_peer_ports(1), fresh_peer_ports(1)
    SCRATCH.mkdir(mode=0o755, exist_ok=True)
    log = SCRATCH / f"seen-{port}"
    log.touch()
    log.chmod(0o666)
    preload = Preload(library=f"{STAGE}/tests/libseen.so {STAGE}/preload/libsynergy.so",
                      peers=peers(server.family, source_port), hops=stand.path.hops)
    preload.others["SEEN"] = log
    program = server.start(stand, port, preload)

    def seen(from_port):
        before = len(log.read_text(encoding="ascii").splitlines())
        server.talk(stand, server, program, from_port, port, PATIENCE)
        lines = log.read_text(encoding="ascii").splitlines()[before:]
        # Which number it has, and from which port the peer comes, is no difference.
        lines = [re.sub(r"^(\w+) \d+ ", r"\1 ", line).replace(f"{from_port:04x}", "PORT")
                 for line in lines]
        return [line for line in lines
                if server.transport != "sctp" or not line.startswith(ECN_OF_SCTP)]

    punched = seen(source_port)
    firewall.set_profile(stand.path, "open")
    ordinary = seen(other)
    stand.say("\n".join(ordinary))
    assert [line for line in ordinary if line.startswith("accept") and "PORT" in line]
    assert punched == ordinary


@pytest.fixture(name="tracking_server")
def server_that_tracks_connections(stand):
    """SO_ORIGINAL_DST is for hosts that do."""
    commands = [["ip", "netns", "exec", stand.path.namespace("A"), tool, "OPERATION", "OUTPUT", "-m",
                 "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"] for tool in ("iptables", "ip6tables")]
    for operation in ("-A", "-D"):
        for command in commands:
            subprocess.run([operation if word == "OPERATION" else word for word in command],
                           check=True)
        if operation == "-A":
            yield stand


@pytest.mark.parametrize("kind", (("::", 6), ("0.0.0.0", 4), ("::", 4)),
                         ids=("IPv6", "IPv4", "v4-mapped"))
def test_original_destination(tracking_server, kind):
    address, family = kind
    stand, level = tracking_server, IPV6 if family == 6 else IP
    (source_port,), (other,), port = fresh_peer_ports(1), fresh_peer_ports(1), fresh_port()
    serve(stand, [listener(address, port)],
          Preload(peers=peers(family, source_port), hops=stand.path.hops))
    punched = options_seen(stand, family, source_port, port)
    firewall.set_profile(stand.path, "open")
    ordinary = options_seen(stand, family, other, port)
    called = socket.inet_pton(clients.AF[family], SERVER[family]).hex()
    assert called in ordinary[f"{level}/80"]
    # The kernel fills in no more than an address, whatever length it tells.
    length = 2 * (28 if family == 6 else 16)
    for name in (f"{IP}/80", f"{IPV6}/80"):
        assert punched[name][:length] == ordinary[name][:length]


@pytest.mark.parametrize("when", ("before", "after"))
def test_signatures(stand, when):
    """RFC 2385, as BGP servers use it: who signs with the key gets in, and who has another or none
    does not."""
    source_ports, port = fresh_peer_ports(6), fresh_port()
    key = (TCP, 14)
    program = serve(stand, [listener("::", port, **{when: {key: md5_key(PEER[6])}})],
                    Preload(peers=peers(6, source_ports[0], source_ports[-1]),
                            hops=stand.path.hops))

    def is_let_in(pair):
        source_port, secret = pair
        with namespace.open_socket(stand.path.namespace("B"), socket.AF_INET6,
                                   socket.SOCK_STREAM) as sock:
            if secret:
                sock.setsockopt(*key, md5_key(SERVER[6], secret))
            sock.bind((PEER[6], source_port))
            sock.settimeout(PATIENCE if secret == b"secret" else NO_ANSWER)
            try:
                sock.connect((SERVER[6], port))
                return sock.recv(100) != b""
            except TimeoutError:
                return False

    secrets = (b"secret", None, b"another", b"secret", None, b"another")
    assert at_once(is_let_in, list(zip(source_ports, secrets))) == [
        secret == b"secret" for secret in secrets]
    assert "nothing is punched" not in program.stderr()


# linux/sctp.h; structures begin with the number of an association.
OF_SCTP = {
    (SOCKET, 9): number(1), (SOCKET, 10): number(1), (SOCKET, 13): struct.pack("ii", 1, 9),
    (SOCKET, 20): struct.pack("qq", 70, 500000), (SOCKET, 29): number(1),
    (SCTP, 0): struct.pack("4I", 0, 3100, 50000, 1100), (SCTP, 1): struct.pack("IHHIII", 0, 7, 0, 0,
                                                                              0, 50000),
    (SCTP, 2): struct.pack("4H", 5, 7, 6, 0), (SCTP, 3): number(1), (SCTP, 7): number(77),
    (SCTP, 8): number(1), (SCTP, 10): struct.pack("HHHxxIIIIII", 0, 0, 0, 99, 88, 0, 0, 0, 0),
    (SCTP, 11): bytes([1, 1] + [0] * 12), (SCTP, 13): struct.pack("II", 0, 900),
    (SCTP, 16): struct.pack("III", 0, 150, 3), (SCTP, 17): struct.pack("II", 0, 66),
    (SCTP, 18): number(1), (SCTP, 19): number(5000), (SCTP, 20): struct.pack("II", 0, 6),
    (SCTP, 32): number(1), (SCTP, 33): number(1), (SCTP, 113): struct.pack("II", 0, 0),
    (SCTP, 118): struct.pack("II", 0, 1), (SCTP, 123): struct.pack("II", 0, 2),
    (SCTP, 130): struct.pack("II", 0, 0), (SCTP, 131): struct.pack("II", 0, 1),
}


@pytest.mark.parametrize("family", (6, 4))
def test_sctp_options(stand, family):
    sctp.skip_if_missing()
    address = "::" if family == 6 else "0.0.0.0"
    sets = {"none": {}, "many": OF_SCTP, "buffers": BUFFERS}
    cases = [(name, when) for name in sets for when in ("before", "after")]
    listeners = [listener(address, fresh_port(), socket.IPPROTO_SCTP, **{when: sets[name]})
                 for name, when in cases]
    source_ports, others = fresh_peer_ports(len(cases)), fresh_peer_ports(len(cases))
    program = serve(stand, listeners, Preload(
        peers=peers(family, source_ports[0], source_ports[-1]), hops=stand.path.hops))

    def seen(ports):
        return [options_seen(stand, family, source_port, at["port"], client=clients.sctp_client)
                for source_port, at in zip(ports, listeners)]

    punched = seen(source_ports)
    firewall.set_profile(stand.path, "open")
    ordinary = seen(others)
    assert "nothing is punched" not in program.stderr()
    assert len({key for key in ordinary[0] if ordinary[2][key] != ordinary[0][key]}) > 20
    # What makes room for further punches; and what Linux forgets of the peer where both sides begin
    # an association at the same time (sctp_assoc_update()): partial reliability, and ECN.
    unlike = {(SOCKET, socket.SO_REUSEPORT), (SCTP, 113), (SCTP, 130), (IP, socket.IP_TOS)}
    different = {where: values for where, values in differences(cases, punched, ordinary).items()
                 if tuple(map(int, where[2].split("/"))) not in unlike}
    assert different == {}
