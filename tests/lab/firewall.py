"""The rules of the firewalls, as `ip6tables -A` would take them, loaded in one go.

    strict      what comes unasked from outside is dropped, and so is what connection tracking
                calls INVALID: ufw, firewalld and most guides set up this
    lax         the same without the INVALID rule
    reset       strict, and the peer's firewall answers what comes unasked with a TCP reset
                (a datagram with port unreachable)
    prohibited  strict, and the peer's firewall answers with an ICMP error of its own
    open        strict, but new connections from outside are let in: what an administrator who
                opens the port would do, and so the direct reference for everything measured
"""

import subprocess

import namespace

# The responder's own errors bear this mark; the kernel's, which would come at once, do not.
LATE_ERROR_MARK = 0x5E

PROFILES = ("strict", "lax", "reset", "prohibited", "open")

_TABLE_BEGIN = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD {policy} [0:0]", ":OUTPUT ACCEPT [0:0]"]
_DROP_INVALID = "-A FORWARD -m conntrack --ctstate INVALID -j DROP"
_KEEP_KNOWN = "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
_REFUSALS = {
    "reset": {
        6: ["-p tcp -j REJECT --reject-with tcp-reset",
            "-p udp -j REJECT --reject-with icmp6-port-unreachable"],
        4: ["-p tcp -j REJECT --reject-with tcp-reset",
            "-p udp -j REJECT --reject-with icmp-port-unreachable"],
    },
    "prohibited": {
        6: ["-j REJECT --reject-with icmp6-adm-prohibited"],
        4: ["-j REJECT --reject-with icmp-admin-prohibited"],
    },
}
_MUTE = {
    6: "-A OUTPUT -p ipv6-icmp -m icmp6 --icmpv6-type time-exceeded"
       f" -m mark ! --mark {LATE_ERROR_MARK:#x} -j DROP",
    4: "-A OUTPUT -p icmp -m icmp --icmp-type time-exceeded"
       f" -m mark ! --mark {LATE_ERROR_MARK:#x} -j DROP",
}


def _table(family, policy, forward):
    begin = [line.format(policy=policy) for line in _TABLE_BEGIN]
    return "\n".join([*begin, *forward, _MUTE[family], "COMMIT", ""])


def _forward_rules(family, profile, inside, is_remote):
    rules = [] if profile == "lax" else [_DROP_INVALID]
    rules += [_KEEP_KNOWN, f"-A FORWARD -i {inside} -j ACCEPT"]
    if profile == "open":
        rules.append("-A FORWARD -m conntrack --ctstate NEW -j ACCEPT")
    if is_remote:
        rules += [f"-A FORWARD {refusal}" for refusal in _REFUSALS.get(profile, {}).get(family, [])]
    return rules


def _load(name, family, table):
    command = {6: "ip6tables-restore", 4: "iptables-restore"}[family]
    with namespace.inside(name):
        subprocess.run([command], input=table, text=True, check=True)


def mute_routers(path):
    """The plain routers forward everything; their kernels do not report what dies there."""
    for node in path.routers:
        if node not in path.firewalls:
            for family in (6, 4):
                _load(path.namespace(node), family, _table(family, "ACCEPT", []))


def set_profile(path, profile):
    if profile not in PROFILES:
        raise ValueError(f"no such firewall profile: {profile}")
    for node in path.firewalls:
        is_remote = node == "fwb"
        inside = "to-B" if is_remote else f"to-{path.left_of(node)}"
        for family in (6, 4):
            rules = _forward_rules(family, profile, inside, is_remote)
            _load(path.namespace(node), family, _table(family, "DROP", rules))


def forget_connections(path):
    for node in path.firewalls:
        with namespace.inside(path.namespace(node)):
            subprocess.run(["conntrack", "-F"], check=True, capture_output=True)


def connections(path, node, family=6):
    """The firewall's own table of connections, a line each."""
    with namespace.inside(path.namespace(node)):
        listing = subprocess.run(
            ["conntrack", "-L", "-f", f"ipv{family}"], check=True, capture_output=True, text=True
        )
    return listing.stdout.splitlines()
