#include "model/zip_directory.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr uint32_t kLocalMark = 0x04034b50;
constexpr uint32_t kDirectoryMark = 0x02014b50;
constexpr uint32_t kEndMark = 0x06054b50;
constexpr uint32_t kEnd64Mark = 0x06064b50;
constexpr uint32_t kEnd64LocatorMark = 0x07064b50;
constexpr int64_t kLocalBytes = 30;
constexpr int64_t kDirectoryEntryBytes = 46;
constexpr int64_t kEndBytes = 22;
constexpr int64_t kEnd64Bytes = 56;
constexpr int64_t kEnd64LocatorBytes = 20;
constexpr int64_t kMaxCommentBytes = 65535;
constexpr int64_t kMaxDirectoryBytes = int64_t{64} << 20;
constexpr uint16_t kZip64Extra = 1;
constexpr uint16_t kIn64Short = 0xFFFF;  // "see the 64-bit field"
constexpr uint32_t kIn64 = 0xFFFFFFFF;

// Little-endian numbers of a record, front to back. What lies behind its end is 0, and ok() tells.
class Fields final {
 public:
  explicit Fields(absl::string_view bytes) : bytes_(bytes) {}
  uint64_t Take(int size) {
    if (bytes_.size() < static_cast<size_t>(size)) {
      ok_ = false;
      return 0;
    }
    uint64_t value = 0;
    for (int i = size - 1; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes_[i]);
    bytes_.remove_prefix(size);
    return value;
  }
  uint16_t U16() { return static_cast<uint16_t>(Take(2)); }
  uint32_t U32() { return static_cast<uint32_t>(Take(4)); }
  uint64_t U64() { return Take(8); }
  absl::string_view Bytes(size_t size) {
    if (bytes_.size() < size) {
      ok_ = false;
      return {};
    }
    const absl::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }
  void Skip(size_t size) { Bytes(size); }
  bool ok() const { return ok_; }
  size_t left() const { return bytes_.size(); }

 private:
  absl::string_view bytes_;
  bool ok_ = true;
};

struct Directory {
  uint64_t entries = 0;
  uint64_t size_bytes = 0;
  uint64_t offset_bytes = 0;
};

class ZipReader final {
 public:
  ZipReader(FileSource& files, const std::string& path) : files_(files), path_(path) {}

  absl::StatusOr<std::map<std::string, ZipEntry>> Read() {
    ASSIGN_OR_RETURN(file_bytes_, files_.SizeBytes(path_));
    ASSIGN_OR_RETURN(const Directory directory, FindDirectory());
    ASSIGN_OR_RETURN(const std::string bytes,
                     Part(static_cast<int64_t>(directory.offset_bytes), static_cast<int64_t>(directory.size_bytes)));
    data_end_ = static_cast<int64_t>(directory.offset_bytes);
    std::map<std::string, ZipEntry> entries;
    Fields fields(bytes);
    for (uint64_t i = 0; i < directory.entries; ++i) RETURN_IF_ERROR(AddEntry(&fields, &entries));
    if (fields.left() != 0) return Damaged("bytes after the directory's last entry");
    RETURN_IF_ERROR(CheckApart(entries));
    return entries;
  }

 private:
  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(path_, ": zip: ", what, "; the file is damaged or not what it says"));
  }
  absl::Status Damaged(absl::string_view name, absl::string_view what) const {
    return Damaged(absl::StrCat(Printable(name), ": ", what));
  }

  absl::StatusOr<std::string> Part(int64_t offset, int64_t size) {
    std::string bytes(static_cast<size_t>(size), '\0');
    RETURN_IF_ERROR(files_.ReadAt(path_, offset, size, reinterpret_cast<std::byte*>(bytes.data())));
    return bytes;
  }

  absl::StatusOr<Directory> FindDirectory() {
    const int64_t tail_bytes = std::min(file_bytes_, kEndBytes + kMaxCommentBytes);
    if (tail_bytes < kEndBytes) return Damaged(absl::StrCat("too short; bytes: ", file_bytes_));
    ASSIGN_OR_RETURN(const std::string tail, Part(file_bytes_ - tail_bytes, tail_bytes));
    for (int64_t at = tail_bytes - kEndBytes; at >= 0; --at) {
      Fields end(absl::string_view(tail).substr(at));
      if (end.U32() != kEndMark) continue;
      const uint16_t disk = end.U16(), directory_disk = end.U16();
      const uint16_t entries_here = end.U16(), entries = end.U16();
      Directory directory{.entries = entries, .size_bytes = end.U32(), .offset_bytes = end.U32()};
      if (end.U16() != end.left()) continue;  // The comment reaches the end of the file, or this is none.
      const int64_t end_at = file_bytes_ - tail_bytes + at;
      const bool in_64 = entries == kIn64Short || directory.size_bytes == kIn64 || directory.offset_bytes == kIn64;
      if (in_64) return FindDirectory64(end_at);
      if (disk != 0 || directory_disk != 0 || entries_here != entries) return Damaged("split over several files");
      return Checked(directory, end_at);
    }
    return Damaged("no end of a directory");
  }

  absl::StatusOr<Directory> FindDirectory64(int64_t end_at) {
    if (end_at < kEnd64LocatorBytes) return Damaged("no zip64 locator");
    ASSIGN_OR_RETURN(const std::string locator_bytes, Part(end_at - kEnd64LocatorBytes, kEnd64LocatorBytes));
    Fields locator(locator_bytes);
    if (locator.U32() != kEnd64LocatorMark) return Damaged("no zip64 locator");
    locator.Skip(4);
    const uint64_t at = locator.U64();
    const auto limit = static_cast<uint64_t>(end_at - kEnd64LocatorBytes);
    if (limit < kEnd64Bytes || at > limit - kEnd64Bytes)
      return Damaged("zip64 end of the directory is out of the file");
    ASSIGN_OR_RETURN(const std::string end_bytes, Part(static_cast<int64_t>(at), kEnd64Bytes));
    Fields end(end_bytes);
    if (end.U32() != kEnd64Mark) return Damaged("no zip64 end of the directory");
    end.Skip(8 + 2 + 2);
    const uint32_t disk = end.U32(), directory_disk = end.U32();
    const uint64_t entries_here = end.U64(), entries = end.U64();
    if (disk != 0 || directory_disk != 0 || entries_here != entries) return Damaged("split over several files");
    const uint64_t size_bytes = end.U64();
    return Checked({.entries = entries, .size_bytes = size_bytes, .offset_bytes = end.U64()}, static_cast<int64_t>(at));
  }

  // Before anything is allocated for it.
  absl::StatusOr<Directory> Checked(const Directory& directory, int64_t end_at) const {
    const auto end = static_cast<uint64_t>(end_at);
    if (directory.offset_bytes > end || directory.size_bytes > end - directory.offset_bytes) {
      return Damaged(absl::StrCat("the directory is out of the file: offset: ", directory.offset_bytes,
                                  ", bytes: ", directory.size_bytes, ", limit: ", end));
    }
    if (directory.size_bytes > static_cast<uint64_t>(kMaxDirectoryBytes)) {
      return Damaged(absl::StrCat("directory bytes: ", directory.size_bytes, "; limit: ", kMaxDirectoryBytes));
    }
    if (directory.entries > directory.size_bytes / kDirectoryEntryBytes) {
      return Damaged(absl::StrCat("more files than their directory can hold: ", directory.entries));
    }
    return directory;
  }

  absl::Status AddEntry(Fields* fields, std::map<std::string, ZipEntry>* entries) {
    if (fields->U32() != kDirectoryMark) return Damaged("an entry of the directory does not begin as one");
    fields->Skip(4);
    const uint16_t flags = fields->U16(), method = fields->U16();
    fields->Skip(8);  // time, date, checksum: torch itself may leave the last one out
    uint64_t stored_bytes = fields->U32(), size_bytes = fields->U32();
    const uint16_t name_bytes = fields->U16(), extra_bytes = fields->U16(), comment_bytes = fields->U16();
    const uint16_t disk = fields->U16();
    fields->Skip(6);
    uint64_t offset = fields->U32();
    const std::string name(fields->Bytes(name_bytes));
    const absl::string_view extra = fields->Bytes(extra_bytes);
    fields->Skip(comment_bytes);
    if (!fields->ok()) return Damaged("the directory is cut");
    if (size_bytes == kIn64 || stored_bytes == kIn64 || offset == kIn64) {
      if (!TakeZip64(extra, &size_bytes, &stored_bytes, &offset)) return Damaged(name, "no zip64 sizes");
    }
    if ((flags & 1) != 0)
      return absl::UnimplementedError(absl::StrCat(path_, ": zip: ", Printable(name), ": encrypted"));
    if (method != 0) {
      return absl::UnimplementedError(absl::StrCat(path_, ": zip: ", Printable(name), ": compression method: ", method,
                                                   "; supported: 0, stored, as torch.save writes"));
    }
    if (disk != 0) return Damaged(name, "on another disk");
    if (stored_bytes != size_bytes) return Damaged(name, "stored, but of two sizes");
    ASSIGN_OR_RETURN(const ZipEntry entry, Locate(name, offset, size_bytes));
    if (!entries->emplace(name, entry).second) return Damaged(name, "duplicate name");
    return absl::OkStatus();
  }

  // Each field is there only if its 32-bit one says so, in this order.
  static bool TakeZip64(absl::string_view extra, uint64_t* size_bytes, uint64_t* stored_bytes, uint64_t* offset) {
    Fields fields(extra);
    while (fields.left() >= 4) {
      const uint16_t id = fields.U16(), bytes = fields.U16();
      Fields field(fields.Bytes(bytes));
      if (!fields.ok()) return false;
      if (id != kZip64Extra) continue;
      for (uint64_t* value : {size_bytes, stored_bytes, offset}) {
        if (*value == kIn64) *value = field.U64();
      }
      return field.ok();
    }
    return false;
  }

  // The file's own header must agree, and its bytes lie before the directory.
  absl::StatusOr<ZipEntry> Locate(const std::string& name, uint64_t offset, uint64_t size_bytes) {
    const auto end = static_cast<uint64_t>(data_end_);
    if (end < kLocalBytes || offset > end - kLocalBytes) return Damaged(name, "begins out of the file");
    ASSIGN_OR_RETURN(const std::string header, Part(static_cast<int64_t>(offset), kLocalBytes));
    Fields fields(header);
    if (fields.U32() != kLocalMark) return Damaged(name, "does not begin as a file");
    fields.Skip(22);
    const uint64_t name_bytes = fields.U16(), extra_bytes = fields.U16();
    const uint64_t data = offset + kLocalBytes + name_bytes + extra_bytes;
    if (data > end || size_bytes > end - data)
      return Damaged(name, absl::StrCat("ends out of the file; bytes: ", size_bytes));
    ASSIGN_OR_RETURN(const std::string local_name,
                     Part(static_cast<int64_t>(offset) + kLocalBytes, static_cast<int64_t>(name_bytes)));
    if (local_name != name) return Damaged(name, absl::StrCat("calls itself ", Printable(local_name)));
    return ZipEntry{static_cast<int64_t>(data), static_cast<int64_t>(size_bytes)};
  }

  absl::Status CheckApart(const std::map<std::string, ZipEntry>& entries) const {
    std::vector<std::pair<ZipEntry, absl::string_view>> in_order;
    for (const auto& [name, entry] : entries) in_order.emplace_back(entry, name);
    std::sort(in_order.begin(), in_order.end(),
              [](const auto& x, const auto& y) { return x.first.offset_bytes < y.first.offset_bytes; });
    int64_t end = 0;
    for (const auto& [entry, name] : in_order) {
      // Its header, which holds its name, lies before its bytes and after those of the one before.
      if (entry.offset_bytes - kLocalBytes - static_cast<int64_t>(name.size()) < end) {
        return Damaged(name, "overlaps the file before it");
      }
      end = entry.offset_bytes + entry.size_bytes;
    }
    return absl::OkStatus();
  }

  FileSource& files_;
  const std::string& path_;
  int64_t file_bytes_ = 0;
  int64_t data_end_ = 0;  // where the directory begins
};

}  // namespace

absl::StatusOr<std::map<std::string, ZipEntry>> ReadZipDirectory(FileSource& files, const std::string& path) {
  return ZipReader(files, path).Read();
}

}  // namespace lorad
