#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "model/base/file_source.h"

namespace lorad {

// Where the bytes of one file in an archive lie.
struct ZipEntry {
  int64_t offset_bytes = 0;  // from the start of the archive
  int64_t size_bytes = 0;
};

// Reads the directory of a zip archive whose files are stored as they are, as torch.save writes them; zip64 too.
// Nothing is unpacked, and no two files share a byte.
//
// Errors   DataLoss, naming the archive and the file in it, for anything that lies: offsets, sizes, names that differ
//          between directory and file, duplicate names, overlaps. Unimplemented for compression and encryption.
// Source   PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.5.3.
absl::StatusOr<std::map<std::string, ZipEntry>> ReadZipDirectory(FileSource& files, const std::string& path);

}  // namespace lorad
