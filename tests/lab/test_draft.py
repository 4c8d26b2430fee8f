import os, signal, subprocess, time, re
import pytest
import firewall, namespace, servers, programs
from programs import Preload, fresh_peer_ports, fresh_port
from topology import PEER, SERVER
pytestmark = pytest.mark.usefixtures("library")

def iptables(node_ns, family, *rule):
    with namespace.inside(node_ns):
        subprocess.run([{6:"ip6tables",4:"iptables"}[family], "-w", *rule], check=True)

def serve(stand, family=6, address=None, **settings):
    port = fresh_port()
    src = fresh_peer_ports(1)[0]
    a = address or ("::" if family == 6 else "0.0.0.0")
    p = f"[{PEER[6]}]:{src}" if family == 6 else f"{PEER[4]}:{src}"
    settings.setdefault("peers", p); settings.setdefault("log", "debug")
    return stand.serve(servers.own_tcp(a, family).command(port), "tcp", port, preload=Preload(**settings))

def show(p, t):
    time.sleep(t)
    print(p.stderr())

@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("profile", ("reset", "prohibited"))
def test_high(stand, profile, family):
    firewall.set_profile(stand.path, profile)
    show(serve(stand, family, hops=5), 2)

@pytest.mark.parametrize("family", (6, 4))
def test_output(stand, family):
    ns = stand.path.namespace("A")
    iptables(ns, family, "-A", "OUTPUT", "-p", "tcp", "--syn", "-j", "DROP")
    try: show(serve(stand, family, hops=2), 6)
    finally: iptables(ns, family, "-F", "OUTPUT")

@pytest.mark.parametrize("family", (6, 4))
@pytest.mark.parametrize("how", ("down", "stop", "late-drop", "route"))
def test_outage(stand, how, family):
    ns = stand.path.namespace("A")
    p = serve(stand, family, hops=2)
    time.sleep(1.2)
    if how == "down":
        subprocess.run(["ip", "-n", ns, "link", "set", "to-fwa", "down"], check=True)
    elif how == "late-drop":
        iptables(ns, family, "-A", "OUTPUT", "-p", "tcp", "--syn", "-j", "DROP")
    elif how == "route":
        subprocess.run(["ip", f"-{family}", "-n", ns, "route", "del", {6:"2001:db8:b::/64",4:"203.0.113.0/24"}[family]], check=True)
    else:
        for e in os.listdir("/proc"):
            if e.isdigit():
                try:
                    if "keeper" in open(f"/proc/{e}/comm").read(): os.kill(int(e), signal.SIGSTOP); k=int(e)
                except OSError: pass
    show(p, 20)
    if how == "stop": os.kill(k, signal.SIGCONT); show(p, 10)
    if how == "down":
        subprocess.run(["ip", "-n", ns, "link", "set", "to-fwa", "up"], check=True)
    assert 0

@pytest.mark.parametrize("recverr", (0, 1))
@pytest.mark.parametrize("family", (6, 4))
def test_queue(stand, family, recverr):
    import socket
    s = namespace.open_socket(stand.path.namespace("A"), {6:socket.AF_INET6,4:socket.AF_INET}[family], socket.SOCK_STREAM)
    s.setblocking(False)
    if family == 6:
        s.setsockopt(41, 16, 2); s.setsockopt(41, 25, recverr)
    else:
        s.setsockopt(0, 2, 2); s.setsockopt(0, 11, recverr)
    try: s.connect((PEER[family], 999))
    except BlockingIOError: pass
    time.sleep(0.2)
    try: print("QUEUE", family, recverr, s.recvmsg(100, 500, socket.MSG_ERRQUEUE))
    except OSError as e: print("QUEUE", family, recverr, e)
