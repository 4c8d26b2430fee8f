"""Proxies, and what ends TLS for others."""

from by_name import (IPV4, TLS, WEB, calls_with, converse, named, owned, run, with_file, with_keys,
                     written)
from topology import PEER, SERVER


def talk_haproxy(stand, server, program, source_port, port, timeout):
    converse("GET / HTTP/1.0\r\n\r\n", f"{PEER[6]} {source_port}\n")(
        stand, server, program, source_port, port, timeout)


def varnishd(home, port, _):
    return ["varnishd", "-F", "-a", f"[::]:{port}", "-b", "none", "-n", home / "work",
            "-T", "none", "-s", "malloc,10M"]


def haproxy(*options, more=""):
    def make(home, port, _):
        (home / "empty").mkdir()
        conf = written(home / "haproxy.cfg", f"""
global
    log stderr format raw daemon
    chroot {home}/empty
    user haproxy
    group haproxy
    {more}
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
frontend lab
    bind :::{port}
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port]\\n"
""")
        return ["haproxy", *options, "-f", conf, "-p", home / "pid"]
    return make


def squid(*options):
    def make(home, port, _):
        owned(home / "run", "proxy")
        conf = written(home / "squid.conf", f"""
            http_port [::]:{port}
            http_access deny all
            pid_filename {home}/run/pid
            cache_log {home}/run/log
            access_log none
            coredump_dir {home}/run
            visible_hostname lab
        """)
        return ["squid", *options, "-n", f"lab{port}", "-f", conf]
    return make


TINYPROXY = "User nobody\nGroup nogroup\nPort {port}\nListen ::\nTimeout 60\nMaxClients 20\n"
ANY_METHOD, NO_METHOD = b"\x05\x01\x00", b"\x05\x00"  # of SOCKS
DANTE = """
logoutput: {home}/log
internal: :: port = {port}
external: 2001:db8:a::11
clientmethod: none
socksmethod: none
user.unprivileged: nobody
client pass { from: ::/0 to: ::/0 }
socks pass { from: ::/0 to: ::/0 }
"""

THROUGH = calls_with("curl", "-s", "-S", "-i", "-m", "{timeout}", "-x", "http://{at}",
                     "http://127.0.0.1:1/", says="HTTP/1.")
HAPROXY_TCP = """
global
    nbthread 3
defaults
    mode tcp
    timeout connect 5s
    timeout client 50s
    timeout server 50s
listen lab
    bind :::{port}
    server one 127.0.0.1:2{port}
"""
SNIPROXY = """
user nobody
listener [::]:{port} {
    proto http
    table all
}
table all {
    .* 127.0.0.1:2{port}
}
"""
HITCH = """
frontend = "[*]:{port}"
backend = "[127.0.0.1]:2{port}"
user = "nobody"
group = "nogroup"
workers = 2
"""
STUNNEL = """
foreground = yes
pid =
[lab]
accept = :::{port}
exec = /bin/cat
cert = server.crt
key = server.key
"""


def behind(make):
    """With a web server behind it."""
    def make_both(home, port, variables):
        return ["sh", "-c", f"env -u LD_PRELOAD busybox httpd -p 127.0.0.1:2{port} -h {home}; "
                'exec "$@"', "sh", *make(home, port, variables)]
    return make_both


SERVERS = (
    named("haproxy", talk_haproxy, haproxy("-db"), "haproxy"),
    named("haproxy -W", talk_haproxy, haproxy("-W"), "haproxy"),
    named("haproxy -Ws", talk_haproxy, haproxy("-Ws"), "haproxy"),
    named("haproxy -Ws insecure-fork-wanted", talk_haproxy,
          haproxy("-Ws", more="insecure-fork-wanted"), "haproxy"),
    named("haproxy, 3 threads, tcp", WEB, behind(with_file("conf", HAPROXY_TCP, "haproxy", "-db", "-f",
                                                           "{home}/conf")), "haproxy"),
    named("squid -N", THROUGH, squid("-N"), "squid"),
    named("varnishd", WEB, varnishd, "varnishd"),
    named("tinyproxy", THROUGH, with_file("conf", TINYPROXY, "tinyproxy", "-d", "-c", "{home}/conf"),
          "tinyproxy"),
    named("privoxy", THROUGH,
          with_file("conf", "listen-address [::]:{port}\nconfdir /etc/privoxy\nlogdir {home}/run\n",
                    "privoxy", "--no-daemon", "{home}/conf", owner="nobody"), "privoxy"),
    named("danted", converse(ANY_METHOD, NO_METHOD),
          with_file("conf", DANTE, "danted", "-f", "{home}/conf", "-p", "{home}/pid"), "danted"),
    named("microsocks", converse(ANY_METHOD, NO_METHOD),
          run("microsocks", "-i", "::", "-p", "{port}"), "microsocks"),
    *(named(program, WEB, behind(run(program, "-f", "-n", "-u", "nobody", "-p", f"[{SERVER[6]}]:{{port}}",
                                      "--anyprot", "127.0.0.1:2{port}")), program)
      for program in ("sslh", "sslh-select")),
    named("pen", WEB, behind(run("pen", "-f", "-u", "nobody", "{port}", "127.0.0.1:2{port}")), "pen",
          **IPV4),
    named("rinetd", WEB, behind(with_file("conf", ":: {port} 127.0.0.1 2{port}\n", "rinetd", "-f", "-c",
                                          "{home}/conf")), "rinetd"),
    named("simpleproxy", WEB, behind(run("simpleproxy", "-L", "{port}", "-R", "127.0.0.1:2{port}")),
          "simpleproxy", **IPV4),
    named("sniproxy", WEB, behind(with_file("conf", SNIPROXY, "sniproxy", "-f", "-c", "{home}/conf")),
          "sniproxy"),
    *(named(f"nghttpx{more}", WEB,
             behind(run("nghttpx", "-f*,{port};no-tls", "-b127.0.0.1,2{port}", *more.split())), "nghttpx")
      for more in ("", " -n2")),
    named("socat, to TCP", WEB, behind(run("socat", "TCP6-LISTEN:{port},fork", "TCP:127.0.0.1:2{port}")),
          "socat"),
    named("hitch", TLS, behind(with_keys(with_file("conf", HITCH, "hitch", "--config={home}/conf",
                                                  "{keys}/server.pem"))), "hitch"),
    named("stunnel", TLS, with_keys(with_file("conf", STUNNEL, "sh", "-c",
                                             "cd {keys} && exec stunnel4 {home}/conf")), "stunnel4"),
    named("gnutls-serv", TLS, with_keys(run(
        "gnutls-serv", "--echo", "-p", "{port}", "--x509keyfile", "{keys}/server.key",
        "--x509certfile", "{keys}/server.crt")), "gnutls-serv"),
    named("openssl s_server", TLS, with_keys(run(
        "openssl", "s_server", "-6", "-accept", "{port}", "-www", "-key", "{keys}/server.key", "-cert",
        "{keys}/server.crt")), "openssl"),
)
