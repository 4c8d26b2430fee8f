"""Logins, screens and tunnels."""

import pathlib
import shutil
import subprocess

import servers
from by_name import TLS, UDP, calls_with, converse, make_keys, named, run, with_file, with_keys, written
from programs import SCRATCH
from topology import SERVER


def dropbear(home, port, _):
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", home / "key"], check=True,
                   capture_output=True)
    return ["dropbear", "-F", "-E", "-r", home / "key", "-p", f"[::]:{port}", "-P", home / "pid"]


def tincd(home, port, _):
    net = home / "net"
    (net / "hosts").mkdir(parents=True)
    written(net / "tinc.conf", "Name = a\nDeviceType = dummy\nAddressFamily = ipv6\n")
    written(net / "hosts/a", f"Port = {port}\n")
    subprocess.run(["tincd", "-c", net, "-K2048"], check=True, capture_output=True,
                   stdin=subprocess.DEVNULL)
    shutil.copy(net / "hosts/a", net / "hosts/b")
    return ["tincd", "-c", net, "-D", f"--pidfile={home}/pid"]


def fingerprint(certificate):
    said = subprocess.run(["openssl", "x509", "-fingerprint", "-sha256", "-noout", "-in",
                           certificate], check=True, capture_output=True, text=True)
    return said.stdout.strip().partition("=")[2]


def talk_openvpn(transport):
    def talk(stand, server, program, source_port, port, timeout):
        keys = make_keys()
        client = stand.start("B", [
            "openvpn", "--dev", "null", "--proto", transport, "--remote", SERVER[6], port,
            "--lport", source_port, "--bind", "--tls-client", "--cert", keys / "client.crt",
            "--key", keys / "client.key", "--peer-fingerprint", fingerprint(keys / "server.crt"),
            "--pull", "--connect-retry-max", 1], user="root")
        try:
            client.wait_for("Initialization Sequence Completed", timeout)
        finally:
            client.stop()
    return talk


def openvpn(transport):
    def make(home, port, _):
        keys = make_keys()
        return ["openvpn", "--dev", "tun", "--proto", transport, "--port", port, "--tls-server",
                "--mode", "server", "--ifconfig-noexec", "--route-noexec", "--dh", "none",
                "--cert", keys / "server.crt", "--key", keys / "server.key",
                "--peer-fingerprint", fingerprint(keys / "client.crt"),
                "--duplicate-cn", "--user", "nobody", "--group", "nogroup", "--keepalive", 10, 60]
    return make


RDP = bytes.fromhex("030000130ee000000000000100080003000000")
OCSERV = """
auth = "plain[passwd={home}/users]"
tcp-port = {port}
run-as-user = nobody
run-as-group = nogroup
socket-file = {home}/socket
server-cert = server.crt
server-key = server.key
device = lab
ipv4-network = 192.0.2.0/24
pid-file = {home}/pid
"""


def sshd(home, port, _):
    servers.make_ssh_keys()
    return servers.sshd_command(port)


def xrdp(home, port, _):
    text = pathlib.Path("/etc/xrdp/xrdp.ini").read_text(encoding="ascii")
    conf = written(home / "xrdp.ini", text.replace("\nport=3389", f"\nport=tcp6://:{port}"))
    return ["xrdp", "--nodaemon", "--config", conf]


def fastd_key():
    """A secret, and what of it others know."""
    secret = subprocess.run(["fastd", "--generate-key", "--machine-readable"], check=True,
                            capture_output=True, text=True).stdout.strip()
    public = subprocess.run(["fastd", "--show-key", "--machine-readable", "-c", "-"], check=True,
                            input=f'secret "{secret}";', capture_output=True, text=True).stdout.strip()
    return secret, public


def fastd_command(place, port, secret, peers):
    conf = written(place / f"fastd-{port}.conf", f"""
mode tap;
interface "lab";
method "null";
bind any:{port};
secret "{secret}";
{peers}
""")
    return ["fastd", "-c", conf]


def fastd(home, port, _):
    secret, public = fastd_key()
    written(SCRATCH / f"fastd-{port}.public", public)
    return fastd_command(home, port, secret, 'on verify "true";')


def talk_fastd(stand, server, program, source_port, port, timeout):
    public = (SCRATCH / f"fastd-{port}.public").read_text(encoding="ascii")
    client = stand.start("B", fastd_command(
        SCRATCH, source_port, fastd_key()[0],
        f'peer "server" {{ key "{public}"; remote [{SERVER[6]}]:{port}; }}'), user="root")
    try:
        client.wait_for("connection with <server> established", timeout)
    finally:
        client.stop()


SERVERS = (
    named("sshd", servers.talk_ssh, sshd, "sshd", "ssh", "ssh-keygen", "ncat"),
    named("dropbear", calls_with("ssh-keyscan", "-t", "ed25519", "-p", "{port}", "{server}",
                                 says="ssh-ed25519"),
          dropbear, "dropbear"),
    named("tcpserver telnetd", converse(None, b"\xff\xfd"),
          run("tcpserver", "-6", "-H", "-R", "0", "{port}", "telnetd"), "tcpserver", "telnetd"),
    named("Xvnc", converse(None, "RFB 003."),
          run("Xvnc", ":{port}", "-rfbport", "{port}", "-SecurityTypes", "None", "-nolisten",
              "local"), "Xvnc"),
    named("xrdp", converse(RDP, b"\x03\0\0"), xrdp, "xrdp"),
    named("openvpn tcp-server", talk_openvpn("tcp6-client"), openvpn("tcp6-server"), "openvpn"),
    named("openvpn udp", talk_openvpn("udp6"), openvpn("udp6"), "openvpn", transport="udp"),
    named("ocserv", TLS, with_keys(with_file("conf", OCSERV, "sh", "-c",
                                             "cd {keys} && exec ocserv -f -c {home}/conf")), "ocserv"),
    named("tincd", converse("0 b 17\n", "0 a 17"), tincd, "tincd"),
    named("fastd", talk_fastd, fastd, "fastd", **UDP),
)
