// Read once for all files of a target (meson's cpp_pch), as it took most of them longer than what
// they say themselves: what most of them include, and nothing of ours. It is for speed alone: each
// file includes what it uses, which -Db_pch=false shows.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/core.h>
