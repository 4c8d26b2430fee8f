"""File servers, and what else stores and shares."""

from by_name import IPV4, TLS, UDP, WEB, ask, calls_with, converse, named, owned, run, with_file, written
from servers import PYTHON

PASSIVE = 10  # ports of the server's


def vsftpd(home, port, _):
    (home / "files").mkdir()
    (home / "empty").mkdir()
    written(home / "files/hello.txt", "hello from the server\n")
    conf = written(home / "vsftpd.conf", f"""
listen=NO
listen_ipv6=YES
listen_port={port}
anonymous_enable=YES
local_enable=NO
anon_root={home}/files
secure_chroot_dir={home}/empty
pasv_min_port={port + 20000}
pasv_max_port={port + 20000 + PASSIVE - 1}
xferlog_enable=NO
background=NO
""".lstrip())
    return ["vsftpd", conf]


PROFTPD = """
ServerName lab
ServerType standalone
UseIPv6 on
Port {port}
User nobody
Group nogroup
PidFile {home}/pid
ScoreboardFile {home}/score
DelayEngine off
UseReverseDNS off
UseFtpUsers off
PassivePorts %d %d
<Anonymous {home}/files>
User nobody
Group nogroup
UserAlias anonymous nobody
RequireValidShell off
</Anonymous>
"""


def proftpd(home, port, variables):
    written(owned(home / "files", "nobody") / "hello.txt", "hello from the server\n")
    first, last = port + 20000, port + 20000 + PASSIVE - 1
    return with_file("conf", PROFTPD % (first, last), "proftpd", "-n", "-c", "{home}/conf")(
        home, port, variables)


def qemu_nbd(home, port, _):
    written(home / "disk", "x" * 4096)
    return ["qemu-nbd", "-t", "-e", "5", "-f", "raw", "-b", "::", "-p", port, home / "disk"]


RSYNC = "pid file = {home}/pid\nuse chroot = no\n[lab]\npath = {home}\n"

FTP = calls_with("curl", "-s", "-S", "-m", "{timeout}", "ftp://{at}/hello.txt",
                 says="hello from the server\n")
NBD_CLIENT = calls_with("qemu-img", "info", "nbd://{at}", says="virtual size")
DISTCC = ("DIST00000001ARGC00000005ARGV00000002ccARGV00000002-cARGV00000003x.c"
          "ARGV00000002-oARGV00000003x.oDOTI00000006int a;")
UDP_TRACKER = bytes.fromhex("000004172710198000000000") + b"lab!"
NBD = """
[generic]
user=nobody
group=nogroup
port={port}
listenaddr=::
[x]
exportname=/etc/hostname
readonly=true
"""


def pyftpdlib(home, port, variables):
    first, last = port + 20000, port + 20000 + PASSIVE - 1
    return with_file("hello.txt", "hello from the server\n", PYTHON, "-m", "pyftpdlib", "-i", "::", "-p",
                     "{port}", "-r", f"{first}-{last}", "-d", "{home}")(home, port, variables)


def cupsd(home, port, _):
    written(home / "files", f"ServerRoot {home}\nStateDir {home}\nCacheDir {home}\nTempDir {home}\n"
            f"RequestRoot {home}\nErrorLog {home}/log\nAccessLog {home}/log\n")
    conf = written(home / "conf", f"Listen [::]:{port}\nWebInterface No\n"
                   "<Location />\nAllow all\n</Location>\n")
    return ["cupsd", "-f", "-c", conf, "-s", home / "files"]


SERVERS = (
    named("vsftpd passive", FTP, vsftpd, "vsftpd", ports_for_a_call=4),
    named("proftpd passive", FTP, proftpd, "proftpd", ports_for_a_call=4),
    named("pyftpdlib passive", FTP, pyftpdlib, ports_for_a_call=4),
    named("rsync --daemon", calls_with("rsync", "rsync://{at}/", says="lab"),
          with_file("conf", RSYNC, "rsync", "--daemon", "--no-detach", "--port={port}",
                    "--address=::", "--config={home}/conf"), "rsync"),
    named("git daemon", calls_with("git", "ls-remote", "git://{at}/lab"),
          run("sh", "-c", "git init -q --bare {home}/lab; exec git daemon --listen=:: --port={port} "
              "--base-path={home} --export-all --reuseaddr"), "git"),
    named("nbd-server", converse(None, "NBDMAGIC"),
          with_file("conf", NBD, "nbd-server", "-C", "{home}/conf"), "nbd-server"),
    named("qemu-nbd", NBD_CLIENT, qemu_nbd, "qemu-nbd"),
    named("nbdkit", NBD_CLIENT,
          run("nbdkit", "-f", "-i", "::", "-p", "{port}", "-u", "nobody", "-g", "nogroup", "null", "1M"),
          "nbdkit"),
    named("distccd", converse(DISTCC, "DONE00000001STAT00000000"),
          run("distccd", "--no-detach", "--daemon", "--listen", "::", "-p", "{port}", "-a", "::/0", "--user",
              "nobody", "--log-file", "{home}/log", "--enable-tcp-insecure"), "distccd"),
    named("cupsd", WEB, cupsd, "cupsd"),
    named("transmission-daemon", WEB,
          run("transmission-daemon", "-f", "-g", "{home}", "-p", "{port}", "-r", "::",
          "--no-auth"), "transmission-daemon"),
    named("aria2c", WEB, run("aria2c", "--enable-rpc", "--rpc-listen-all",
                              "--rpc-listen-port={port}", "--listen-port=1{port}"), "aria2c"),
    named("deluged", TLS, run("deluged", "-d", "-c", "{home}", "-u", "::", "-p", "{port}"), "deluged"),
    named("opentracker", WEB, run("opentracker", "-p", "{port}", "-P", "{port}", "-d", "{home}"),
          "opentracker", **IPV4),
    named("opentracker UDP", ask(UDP_TRACKER, b"lab!"),
          run("opentracker", "-p", "{port}", "-P", "{port}", "-d", "{home}"), "opentracker", **UDP, **IPV4),
)
