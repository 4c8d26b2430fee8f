"""Web servers."""

import pathlib
import shutil

import servers
from by_name import GO, HTTP, Named, WEB, calls_with, named, run, with_file, written

LIGHTTPD = """
server.document-root = "{home}"
server.use-ipv6 = "enable"
server.bind = "::"
server.port = {port}
server.username = "www-data"
server.groupname = "www-data"
"""
H2O = """
user: nobody
num-threads: 2
listen:
  host: "::"
  port: {port}
hosts:
  default:
    paths:
      /:
        file.dir: {home}
"""
I2PD = """
log = none
[http]
enabled = true
address = ::
port = {port}
strictheaders = false
[httpproxy]
enabled = false
[socksproxy]
enabled = false
[sam]
enabled = false
"""
ICECAST = """<icecast><limits><sources>2</sources></limits><authentication>
<source-password>a</source-password><admin-password>b</admin-password></authentication>
<hostname>lab</hostname><listen-socket><port>{port}</port><bind-address>::</bind-address>
</listen-socket><paths><logdir>{home}/run</logdir><webroot>/usr/share/icecast2/web</webroot>
<adminroot>/usr/share/icecast2/admin</adminroot></paths><security><chroot>0</chroot>
<changeowner><user>nobody</user><group>nogroup</group></changeowner></security></icecast>"""


def apache(module):
    """Debian's configuration, but for the port and the module."""
    def make(home, port, _):
        conf = home / "apache2"
        shutil.copytree("/etc/apache2", conf, symlinks=True)
        for link in (conf / "mods-enabled").glob("mpm_*"):
            link.unlink()
        for kind in ("load", "conf"):
            (conf / f"mods-enabled/mpm_{module}.{kind}").symlink_to(
                f"../mods-available/mpm_{module}.{kind}")
        written(conf / "ports.conf", f"Listen [::]:{port}\n")
        for name in ("run", "lock", "log"):
            (home / name).mkdir()
        start = written(home / "run.sh", f"""
            export APACHE_CONFDIR={conf} APACHE_RUN_USER=www-data APACHE_RUN_GROUP=www-data
            export APACHE_PID_FILE={home}/run/pid APACHE_RUN_DIR={home}/run
            export APACHE_LOCK_DIR={home}/lock APACHE_LOG_DIR={home}/log LANG=C
            exec apache2 -d {conf} -k start
        """)
        return ["sh", start]
    return make


def nginx(options):
    def make(home, port, _):
        command = servers.nginx_command(port)
        conf = pathlib.Path(command[-1])
        conf.write_text(conf.read_text(encoding="ascii").replace(
            "ipv6only=on", "ipv6only=on" + options), encoding="ascii")
        return command
    return make


SERVERS = (
    *(Named(f"apache {module}", HTTP, make=apache(module), tools=("apache2",))
      for module in ("prefork", "worker", "event")),
    *(named(f"nginx{more}", servers.talk_nginx, nginx(more), "nginx")
      for more in ("", " deferred", " reuseport", " fastopen=9")),
    named("nginx http2", calls_with("curl", "-s", "-S", "-i", "--http2-prior-knowledge",
                                   "http://{at}/", says="HTTP/2 200"),
          nginx(" http2"), "nginx"),
    named("lighttpd", WEB, with_file("conf", LIGHTTPD, "lighttpd", "-D", "-f", "{home}/conf"),
          "lighttpd"),
    named("lighttpd, 2 workers", WEB, with_file("conf", LIGHTTPD + "server.max-worker = 2\n", "lighttpd",
                                                "-D", "-f", "{home}/conf"), "lighttpd"),
    named("webfsd", WEB, run("webfsd", "-F", "-6", "-p", "{port}", "-r", "{home}"), "webfsd"),
    named("mini_httpd", WEB, run("mini_httpd", "-D", "-p", "{port}", "-d", "{home}", "-h", "::",
                                  "-u", "nobody"), "mini_httpd"),
    named("busybox httpd", WEB,
          run("busybox", "httpd", "-f", "-p", "[::]:{port}", "-h", "{home}"), "busybox"),
    named("h2o", WEB, with_file("conf", H2O, "h2o", "-c", "{home}/conf"), "h2o"),
    named("nghttpd", calls_with("curl", "-s", "-S", "-i", "--http2-prior-knowledge",
                               "http://{at}/", says="HTTP/2 404"),
          run("nghttpd", "--no-tls", "-n", "2", "-d", "{home}", "-a", "::", "{port}"), "nghttpd"),
    named("tcpserver micro-httpd", WEB, run("tcpserver", "-6", "-H", "-R", "0", "{port}", "micro-httpd",
                                            "{home}"), "tcpserver", "micro-httpd"),
    named("caddy", WEB, run("caddy", "file-server", "--listen", "[::]:{port}", "--root", "{home}"), "caddy",
          cannot=GO),
    named("i2pd", WEB, with_file("conf", I2PD, "i2pd", "--conf={home}/conf", "--datadir={home}",
                                  "--port=2{port}"), "i2pd"),
    named("icecast2", WEB,
          with_file("conf", ICECAST, "icecast2", "-c", "{home}/conf", owner="nobody"), "icecast2"),
)
