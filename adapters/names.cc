#include "adapters/names.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPathBytes = 4096;
constexpr size_t kMaxRevisionBytes = 64;

bool IsLetterOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

bool IsInside(const fs::path& path, const fs::path& root) {
  const auto [root_end, path_end] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return root_end == root.end();
}

absl::Status CheckPath(std::string_view path) {
  if (!path.empty() && path.size() <= kMaxPathBytes && path.find('\0') == std::string_view::npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("adapter path: ", Printable(std::string(path)), "; must be 1..",
                                                 kMaxPathBytes, " bytes without NUL"));
}

absl::Status OutsideRoot(std::string_view path, const std::string& root) {
  return absl::InvalidArgumentError(
      absl::StrCat("adapter path: ", Printable(std::string(path)), "; must lie under --adapter-root: ", root));
}

}  // namespace

absl::Status CheckAdapterName(std::string_view name) {
  const auto refuse = [&](const char* rule) {
    return absl::InvalidArgumentError(absl::StrCat("adapter name: ", Printable(std::string(name)), "; ", rule));
  };
  if (name.empty()) return refuse("must not be empty");
  if (name.size() > kMaxAdapterNameBytes) return refuse("longer than the limit of 256 bytes");
  if (!IsLetterOrDigit(name.front())) return refuse("must begin with a letter or digit");
  for (const char c : name) {
    if (!IsLetterOrDigit(c) && std::string_view("._:/-").find(c) == std::string_view::npos) {
      return refuse("may hold letters, digits and . _ : / - alone");
    }
  }
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view segment = name.substr(begin, end - begin);
    if (segment.empty() || segment == "." || segment == "..") return refuse("has an empty, \".\" or \"..\" segment");
    begin = end + 1;
  }
  return absl::OkStatus();
}

bool IsRevision(std::string_view name) { return name.find('@') != std::string_view::npos; }

absl::Status CheckRequestedName(std::string_view name) {
  const size_t at = std::min(name.find('@'), name.size());
  RETURN_IF_ERROR(CheckAdapterName(name.substr(0, at)));
  if (at == name.size()) return absl::OkStatus();
  const std::string_view revision = name.substr(at + 1);
  const bool digits = revision.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  if (digits && !revision.empty() && revision.size() <= kMaxRevisionBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("adapter revision: ", Printable(std::string(name)), "; must be NAME@REV, REV 1..64 of 0-9 a-f"));
}

absl::StatusOr<std::string> ResolveAdapterPath(std::string_view path, std::string_view root) {
  RETURN_IF_ERROR(CheckPath(path));
  const std::string shown = Printable(std::string(path));
  std::error_code error;
  fs::path real_root;
  fs::path wanted(path);
  if (!root.empty()) {
    real_root = fs::canonical(fs::path(root), error);
    if (error) {
      return absl::FailedPreconditionError(
          absl::StrCat("adapter root: ", Printable(std::string(root)), ": ", error.message(), "; see --adapter-root"));
    }
    if (wanted.is_relative()) wanted = real_root / wanted;
  }
  const fs::path real = fs::canonical(wanted, error);
  // A path outside the root says nothing of what exists there.
  const bool inside = real_root.empty() || IsInside(error ? wanted.lexically_normal() : real, real_root);
  if (!inside) return OutsideRoot(path, real_root.string());
  if (error) return absl::NotFoundError(absl::StrCat("adapter path: ", shown, ": ", error.message()));
  if (!fs::is_directory(real, error)) {
    return absl::InvalidArgumentError(absl::StrCat("adapter path: ", shown, "; must be a folder"));
  }
  return real.string();
}

absl::StatusOr<std::string> JoinAdapterPath(std::string_view path, const std::vector<std::string>& roots) {
  RETURN_IF_ERROR(CheckPath(path));
  fs::path wanted(path);
  if (wanted.is_relative()) {
    std::error_code error;
    wanted = (roots.empty() ? fs::current_path(error) : fs::path(roots.front())) / wanted;
    if (error) return absl::FailedPreconditionError(absl::StrCat("working directory: ", error.message()));
  }
  const fs::path normal = wanted.lexically_normal();
  const auto holds = [&normal](const std::string& root) {
    fs::path folder = fs::path(root).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();  // given with a slash at its end
    return IsInside(normal, folder);
  };
  if (!roots.empty() && std::none_of(roots.begin(), roots.end(), holds)) return OutsideRoot(path, roots.front());
  return wanted.string();
}

absl::StatusOr<std::string> ResolveNewFolder(std::string_view path, std::string_view root) {
  fs::path wanted(path);
  if (!wanted.has_filename()) wanted = wanted.parent_path();  // a slash at the end
  const std::string name = wanted.filename().string();
  if (name.empty() || name == "." || name == ".." || name.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("output path: ", Printable(std::string(path)), "; must end with the name of a new folder"));
  }
  const std::string around = wanted.has_parent_path() ? wanted.parent_path().string() : ".";
  ASSIGN_OR_RETURN(const std::string parent, ResolveAdapterPath(around, root));
  return (fs::path(parent) / name).string();
}

}  // namespace lorad
