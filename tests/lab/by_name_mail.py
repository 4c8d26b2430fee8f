"""Mail servers."""

import shutil
import subprocess

from by_name import calls_with, converse, named, owned, run, with_file, written


def postfix(home, port, variables):
    """Its programs are executed with what import_environment names, and with its listener."""
    queue = home / "spool"
    queue.mkdir()
    names = " ".join(["MAIL_CONFIG", *variables])
    written(home / "main.cf", f"""
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {home}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = lab.example
mydestination =
inet_interfaces = all
inet_protocols = ipv6
import_environment = {names}
smtpd_peername_lookup = no
maillog_file = {home}/log
maillog_file_prefixes = {home}
smtpd_relay_restrictions = reject
alias_maps =
""")
    owned(home / "data", "postfix")
    services = "\n".join(f"{name} unix - - n - {most} {program}" for name, most, program in (
        ("anvil", 1, "anvil"), ("rewrite", 0, "trivial-rewrite"), ("proxymap", 0, "proxymap")))
    written(home / "master.cf", f"""
{port} inet n - y - - smtpd
{services}
postlog unix-dgram n - n - 1 postlogd
""")
    with open(home / "said", "wb") as said:
        subprocess.run(["postfix", "-c", home, "check"], check=True, stdout=said, stderr=said)
    return ["/usr/lib/postfix/sbin/master", "-c", home, "-d"]


def exim(home, port, _):
    place = shutil.which("exim4")
    shutil.chown(home, "nobody", "nogroup")
    conf = written(home / "exim.conf", f"""
exim_user = nobody
exim_group = nogroup
never_users =
spool_directory = {home}/spool
log_file_path = {home}/log-%slog
primary_hostname = lab.example
daemon_smtp_ports = {port}
local_interfaces = <; ::0
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt =
begin routers
""")
    return [place, "-C", conf, "-bdf", "-oP", home / "pid"]


def exim_of_debian(home, port, _):
    """Debian's configuration, but for where it listens."""
    return ["exim4", "-bd", "-q30m", "-oX", f"<; [::]:{port}", "-oP", home / "pid"]


POP3D = """
mode daemon;
server "inet6://[::]:{port}" {
    single-process no;
};
"""
SMTP = calls_with("curl", "-s", "-S", "-m", "{timeout}", "-X", "NOOP", "smtp://{at}")


def dovecot(protocol):
    def make(home, port, variables):
        names = " ".join(f"{name}={value}" for name, value in variables.items() if " " not in value)
        conf = written(home / "dovecot.conf", f"""
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
ssl = no
listen = ::
protocols = {protocol}
import_environment = TZ {names}
passdb {{
  driver = static
  args = nopassword=y
}}
service {protocol}-login {{
  inet_listener {protocol} {{
    port = {port}
  }}
  inet_listener {protocol}s {{
    port = 0
  }}
}}
""")
        return ["dovecot", "-F", "-c", conf]
    return make


SERVERS = (
    named("postfix", converse(None, "220 lab.example"), postfix, "postfix"),
    named("dovecot imap-login", converse(None, "* OK"), dovecot("imap"), "dovecot"),
    named("dovecot pop3-login", converse(None, "+OK"), dovecot("pop3"), "dovecot",
          "/usr/lib/dovecot/pop3-login"),
    named("exim4 -bdf", converse(None, "220 lab.example"), exim, "exim4"),
    named("exim4 -bd -q30m", converse(None, " ESMTP Exim "), exim_of_debian, "exim4"),
    named("aiosmtpd", SMTP, run("aiosmtpd", "-l", ":::{port}"), "aiosmtpd"),
    named("pop3d", converse(None, "+OK"),
          with_file("conf", POP3D, "pop3d", "--config-file={home}/conf", "--no-site-config", "--foreground"),
          "pop3d"),
)
