"""The path on which everything in the lab happens.

       server                                                           peer
         A ------- fwa ------- r1 ------- r2 ------- fwb ------------- B
    hop  0          1           2          3          4                5

     2001:db8:a::11                                       2001:db8:b::5
     198.51.100.11                                        203.0.113.5
       |--- :1 ---|-- link 1 --|- link 2 -|-- link 3 --|------ :1 -----|

fwa and fwb drop what comes unasked from outside (firewall.py has their rules), r1 and r2 forward
everything. What dies on the way is reported tens of milliseconds late (responder.py).

With two firewalls in a row on the server's side:

         A ------ fwa0 ------ fwa ------- r1 ------- r2 ------- fwb --- B
    hop  0          1           2          3          4          5      6

Other paths have other nodes between A and fwb: Path("long", local=["fwa0", "fwa"],
between=["r1", "r2", "r3"]).

Link n between routers is 2001:db8:ff:n::/64 and 192.0.2.(4n)/30, its left end :1, its right :2.
A network interface is named after who is at its other end: `to-r1`.
"""

import os
import subprocess

import namespace

SERVER = {6: "2001:db8:a::11", 4: "198.51.100.11"}
PEER = {6: "2001:db8:b::5", 4: "203.0.113.5"}

# In every namespace. Duplicate address detection would make an address unusable for a second.
# Errors about packets are not rationed: a test that counts on one would fail at random.
QUIET = {
    "net/ipv6/conf/all/accept_dad": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/accept_ra": 0,
    "net/ipv6/conf/default/router_solicitations": 0,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/icmp_ratelimit": 0,
    "net/ipv6/icmp/ratelimit": 0,
}
# Before Linux 6.11 this one belongs to the whole machine, and is not to be seen in a namespace.
QUIET_WHERE_POSSIBLE = {"net/ipv4/icmp_msgs_per_sec": 1000000}
FORWARDING = {"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1}


class Path:
    """One such path, built. Its namespaces go with the lab's private /run."""

    def __init__(self, label, two_firewalls=False, local=None, between=("r1", "r2"),
                 has_site_addresses=False):
        """`has_site_addresses`: the server's network and its firewalls' share a /56 of IPv6, as a
        provider gives it."""
        self.label, self.has_site_addresses = label, has_site_addresses
        inner = local or (["fwa0", "fwa"] if two_firewalls else ["fwa"])
        self.nodes = ["A", *inner, *between, "fwb", "B"]
        self.local_firewalls = inner
        self._build()
        self._identities = {namespace.identity(self.namespace(node)) for node in self.nodes}

    @property
    def routers(self):
        return self.nodes[1:-1]

    @property
    def firewalls(self):
        return [*self.local_firewalls, "fwb"]

    def namespace(self, node):
        return f"{self.label}-{node}"

    def hop(self, node):
        """The hop limit of a packet from A that dies at this node."""
        return self.nodes.index(node)

    @property
    def hops(self):
        """The hop limit that crosses the last local firewall and dies on what comes next."""
        return self.hop(self.local_firewalls[-1]) + 1

    def left_of(self, node):
        return self.nodes[self.nodes.index(node) - 1]

    def right_of(self, node):
        return self.nodes[self.nodes.index(node) + 1]

    def addresses(self, node):
        """(interface, {6: address, 4: address}) of each of the node's interfaces."""
        index = self.nodes.index(node)
        found = []
        if index > 0:
            found.append((f"to-{self.left_of(node)}", self._ends(index - 1)[1]))
        if index < len(self.nodes) - 1:
            found.append((f"to-{self.right_of(node)}", self._ends(index)[0]))
        return found

    def owns(self, pid):
        """Whether a process is in one of this path's namespaces."""
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return False
            return os.stat(f"/proc/{pid}/ns/net").st_ino in self._identities
        except OSError:
            return False

    def _ends(self, link):
        """The addresses of both ends of the link between the nodes `link` and `link` + 1."""
        if link == 0:
            return SERVER, {6: "2001:db8:a::1", 4: "198.51.100.1"}
        if link == len(self.nodes) - 2:
            return {6: "2001:db8:b::1", 4: "203.0.113.1"}, PEER
        is_own = self.has_site_addresses and link < len(self.local_firewalls)
        network = f"2001:db8:a:{link}" if is_own else f"2001:db8:ff:{link}"
        return tuple(
            {6: f"{network}::{end}", 4: f"192.0.2.{4 * link + end}"} for end in (1, 2)
        )

    def _build(self):
        for node in self.nodes:
            subprocess.run(["ip", "netns", "add", self.namespace(node)], check=True)
            namespace.sysctl(self.namespace(node), QUIET)
            for key, value in QUIET_WHERE_POSSIBLE.items():
                try:
                    namespace.sysctl(self.namespace(node), {key: value})
                except OSError:
                    pass
            if node in self.routers:
                namespace.sysctl(self.namespace(node), FORWARDING)
        _ip([], [
            f"link add to-{right} netns {self.namespace(left)} address {_link_address(link, 0)}"
            f" type veth peer name to-{left} netns {self.namespace(right)}"
            f" address {_link_address(link, 1)}"
            for link, (left, right) in enumerate(zip(self.nodes, self.nodes[1:]))
        ])
        for node in self.nodes:
            self.configure(node)

    def configure(self, node):
        """Also once more, after an interface was down."""
        _ip(["-force", "-n", self.namespace(node)], self._configuration(node))

    def _configuration(self, node):
        lines = ["link set lo up"]
        for interface, address in self.addresses(node):
            between_routers = address[4].startswith("192.0.2.")
            lines += [
                f"link set {interface} up",
                f"address add {address[6]}/64 dev {interface} nodad",
                f"address add {address[4]}/{30 if between_routers else 24} dev {interface}",
            ]
        index = self.nodes.index(node)
        # Neighbours are told, not looked for: all namespaces of a machine share one table of those
        # that were found, and 1024 are too few for the paths of several labs.
        for link, end in ((index - 1, 0), (index, 1)):
            if 0 <= link < len(self.nodes) - 1:
                lines += [f"neigh replace {address} lladdr {_link_address(link, end)}"
                          f" dev to-{self.nodes[link + end]} nud permanent"
                          for address in self._ends(link)[end].values()]
        if index > 1:
            to_left = self._ends(index - 1)[0]
            lines += [
                f"route add 2001:db8:a::/64 via {to_left[6]}",
                f"route add 198.51.100.0/24 via {to_left[4]}",
            ]
        if index < len(self.nodes) - 2:
            to_right = self._ends(index)[1]
            lines += [
                f"route add 2001:db8:b::/64 via {to_right[6]}",
                f"route add 203.0.113.0/24 via {to_right[4]}",
            ]
        return lines


def _link_address(link, end):
    return f"02:00:00:00:{link:02x}:{end + 1:02x}"


def _ip(options, lines):
    # (With -force, what is there already is no error.)
    subprocess.run(["ip", *options, "-batch", "-"], input="\n".join(lines), text=True,
                   check="-force" not in options)
