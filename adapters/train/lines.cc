#include "adapters/train/lines.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

absl::Status Visit(int64_t number, std::string_view line, const LineVisitor& visit) {
  if (number == 1 && line.substr(0, kByteOrderMark.size()) == kByteOrderMark) line.remove_prefix(kByteOrderMark.size());
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) return absl::OkStatus();
  if (static_cast<int64_t>(line.size()) > kMaxLineBytes) {
    return absl::DataLossError(absl::StrCat("line ", number, ": bytes: more than ", kMaxLineBytes));
  }
  return visit(number, line);
}

}  // namespace

absl::Status ForEachLine(FileSource& files, const std::string& path, const LineVisitor& visit) {
  ASSIGN_OR_RETURN(const int64_t size_bytes, files.SizeBytes(path));
  std::string piece, pending;
  int64_t number = 1;
  for (int64_t offset = 0; offset < size_bytes; offset += kPieceBytes) {
    piece.resize(static_cast<size_t>(std::min(kPieceBytes, size_bytes - offset)));
    RETURN_IF_ERROR(
        files.ReadAt(path, offset, static_cast<int64_t>(piece.size()), reinterpret_cast<std::byte*>(piece.data())));
    std::string_view rest = piece;
    for (size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
      pending.append(rest.substr(0, end));
      RETURN_IF_ERROR(Visit(number++, pending, visit));
      pending.clear();
      rest.remove_prefix(end + 1);
    }
    pending.append(rest);
    if (static_cast<int64_t>(pending.size()) > kMaxLineBytes) break;  // Visit says so.
  }
  return pending.empty() ? absl::OkStatus() : Visit(number, pending, visit);
}

absl::Status ForEachLine(const std::vector<std::string>& lines, const LineVisitor& visit) {
  int64_t number = 1;
  for (const std::string& line : lines) RETURN_IF_ERROR(Visit(number++, line, visit));
  return absl::OkStatus();
}

}  // namespace lorad
