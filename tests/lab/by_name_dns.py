"""Name servers, each asked by datagrams and over TCP."""

from by_name import UDP, calls_with, named, run, with_file, written

UNBOUND = """
server:
    interface: ::0@{port}
    port: {port}
    access-control: ::0/0 refuse_non_local
    do-daemonize: no
    use-syslog: no
    chroot: ""
    directory: "{home}"
    pidfile: ""
    username: "unbound"
    num-threads: 1
remote-control:
    control-enable: no
"""
UNBOUND_THREADS = UNBOUND.replace("num-threads: 1", "num-threads: 2\n    so-reuseport: yes")
NAMED = """
options {
    directory "{home}/run";
    pid-file none;
    listen-on { none; };
    listen-on-v6 port {port} { any; };
    allow-query { any; };
    recursion no;
    session-keyfile none;
};
controls { };
"""
KNOT = """
server:
    listen: ::@{port}
    rundir: {home}/run
    user: knot:knot
database:
    storage: {home}/run
"""
NSD = """
server:
    ip-address: ::@{port}
    username: nsd
    zonesdir: "{home}"
    pidfile: ""
    xfrdfile: ""
    zonelistfile: "{home}/run/zones"
    database: ""
    server-count: 2
    reuseport: %s
remote-control:
    control-enable: no
"""


def nsd(reuseport):
    return with_file("conf", NSD % reuseport, "nsd", "-d", "-c", "{home}/conf", owner="nsd")


def pdns(*options):
    return with_file("zones", "", "pdns_server", "--config-dir={home}", "--socket-dir={home}",
                     "--daemon=no", "--guardian=no", "--launch=bind", "--bind-config={home}/zones",
                     "--local-address=::", "--local-port={port}", *options)


DIG = ("dig", "-p", "{port}", "@{server}", "lab.example")
DNSDIST = """
setLocal("[::]:{port}")
setACL("::/0")
addAction(AllRule(), SpoofAction("192.0.2.1"))
"""
GDNSD = "options => {{ listen => \"[::]:{port}\", run_dir => {home}, state_dir => {home} }}\n"
YADIFA = """
<main>
    daemon off
    listen "::" port {port}
    datapath "{home}/run"
    keyspath "{home}/run"
    xfrpath "{home}/run"
    logpath "{home}/run"
    pidfile "{home}/run/pid"
    uid nobody
    gid nogroup
    allow-query any
</main>
"""
RECURSOR = run("pdns_recursor", "--config-dir=/nonexistent", "--socket-dir={home}", "--daemon=no",
               "--local-address=::", "--local-port={port}", "--allow-from=::/0", "--threads=2",
               "--security-poll-suffix=")


def gdnsd(home, port, _):
    (home / "zones").mkdir()
    written(home / "config", GDNSD.format(home=home, port=port))
    return ["gdnsd", "-c", home, "start"]


def dns(name, make, tool):
    """Over TCP it waits: with a second to each try, one that was not heard is given up, and the next one from that
    port is another connection to the firewalls (README, Limits)."""
    yield named(name, calls_with(*DIG, "+time=1", "+tries=9", says="status:"), make, tool, **UDP)
    yield named(f"{name} TCP", calls_with(*DIG, "+time=9", "+tries=1", "+tcp", says="status:"), make, tool)


SERVERS = (
    *dns("unbound", with_file("conf", UNBOUND, "unbound", "-c", "{home}/conf"), "unbound"),
    *dns("unbound, 2 threads", with_file("conf", UNBOUND_THREADS, "unbound", "-c", "{home}/conf"), "unbound"),
    *dns("named", with_file("conf", NAMED, "named", "-f", "-u", "bind", "-c", "{home}/conf",
                            owner="bind"), "named"),
    *dns("dnsmasq", run("dnsmasq", "-k", "-p", "{port}", "-C", "/dev/null", "-R", "-u", "nobody", "-x",
        "{home}/pid"), "dnsmasq"),
    *dns("knotd", with_file("conf", KNOT, "knotd", "-c", "{home}/conf", owner="knot"), "knotd"),
    *dns("nsd", nsd("no"), "nsd"),
    *dns("nsd reuseport", nsd("yes"), "nsd"),
    *dns("pdns_server", pdns(), "pdns_server"),
    *dns("pdns_server reuseport", pdns("--reuseport=yes", "--receiver-threads=3"), "pdns_server"),
    *dns("pdns_recursor", RECURSOR, "pdns_recursor"),
    *dns("dnsdist", with_file("conf", DNSDIST, "dnsdist", "--supervised", "-C", "{home}/conf", "-u",
                              "nobody"), "dnsdist"),
    *dns("gdnsd", gdnsd, "gdnsd"),
    *dns("yadifad", with_file("conf", YADIFA, "yadifad", "-c", "{home}/conf", "--nodaemon",
          owner="nobody"), "yadifad"),
)
