// Whose a path is, for a process of root's.
#pragma once

#include <string>

namespace synergy {

/// Whether this process is root's and somebody else could make the absolute path lead to what he
/// likes: he owns a directory on the way, a link or the file, or may write there. False of what
/// is not there, as long as nobody else could put it there; and for any other user, who can lose
/// no more than what is his.
bool others_can_change(const std::string &path);

} // namespace synergy
