// Why a punch does not leave this host, in words.
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"
#include "base/socket.h"
#include "settings/settings.h"

#include <string>

namespace synergy {

/// What `error`, of a system call that was to send a punch or to make ready for it, comes from.
/// `source`: where it was to leave from; a wildcard or nothing where that is the kernel's choice.
/// Rules of the routing table may go by the transport and its ports.
std::string local_cause(int error, const Endpoint &source, const Endpoint &peer,
                        const Settings &settings, Transport transport);

/// The same where the kernel says nothing, and yet no SYN leaves. Empty: no cause is known, and it
/// was not even `tried`, by which a firewall would show.
std::string silent_cause(const Endpoint &source, const Endpoint &peer, const Settings &settings,
                         bool was_tried);

/// What begins a connection from there to the peer, and dies on the first router. Empty where it
/// can't be begun.
Socket begin_to_first_router(const Endpoint &source, const Endpoint &peer, Transport transport);

/// Whether this host's own firewall refuses what begins a connection from there to the peer: it
/// does so at once, and also where that dies on the first router. (TCP: by a reset. SCTP: by what
/// is no Time Exceeded.) `lateness`: how late this process's thread is of late, and so, perhaps,
/// the kernel's that brings the refusal.
bool is_refused_by_this_host(const Endpoint &source, const Endpoint &peer, Transport transport,
                             Duration lateness);

/// Where the interface that leads there has no carrier; empty: it has one.
std::string no_carrier_cause(const Endpoint &source, const Endpoint &peer);

/// That, or that the first router on the way there is not to be found on the link; empty: it is.
/// Before a packet was sent there nothing is known of it, and for a second after.
std::string mute_gateway_cause(const Endpoint &source, const Endpoint &peer);

/// Which errno the kernel has for the way from `local` there, without sending anything; 0: there is
/// one, and `source` is what it leaves from, with a port of no meaning.
int route_error(const Endpoint &local, const Endpoint &peer, Transport transport,
                Endpoint *source = nullptr);

/// What is wrong with the source address that the settings choose for this family; empty: nothing.
std::string local_setting_cause(const Settings &settings, int family);

} // namespace synergy
