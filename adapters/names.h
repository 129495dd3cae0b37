#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

inline constexpr size_t kMaxAdapterNameBytes = 256;

// 1..256 of [A-Za-z0-9._:/-], the first a letter or digit, no empty, "." or ".." segment between slashes. '@' is kept
// for revisions. Errors: InvalidArgument with the name and the rule it breaks.
absl::Status CheckAdapterName(std::string_view name);

// With an '@'.
bool IsRevision(std::string_view name);
// What a request may name: an adapter, or a revision of one, NAME@REV with REV 1..64 of [0-9a-f].
absl::Status CheckRequestedName(std::string_view name);

// The real path of an adapter's folder. `root` "" = anywhere; else the folder, its symbolic links resolved, lies under
// it. A relative path is taken from the root, or from the working directory without one.
// Errors   NotFound: no such folder. InvalidArgument: outside the root, not a folder, or not a path.
absl::StatusOr<std::string> ResolveAdapterPath(std::string_view path, std::string_view root);

// The same by the words alone, for threads that must not wait for the file system: nothing is looked up, so that what
// the path leads to is only checked when it is read (RootedFiles). It lies under one of `roots`, the same folder by
// several spellings; none = anywhere. A relative path is taken from the first.
// Errors   InvalidArgument: outside the roots, or not a path.
absl::StatusOr<std::string> JoinAdapterPath(std::string_view path, const std::vector<std::string>& roots);

// The path of a folder that is to be made: that of the folder around it, which is there and, with a `root`, lies under
// it, and a name. Errors: NotFound: no such folder around it; InvalidArgument: outside the root, or not a path.
absl::StatusOr<std::string> ResolveNewFolder(std::string_view path, std::string_view root);

}  // namespace lorad
