#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// The revisions that training has made, NAME@REV with REV of the content's digest, and which of them each name means.
// A revision is a folder `dir`/NAME@REV that is never written again; what is known of it lies in tables of the job
// store's file, which exists.
//
// Threads  any.
// Errors   as JobStore's. NotFound: no such name or revision.
class Revisions final {
 public:
  static absl::StatusOr<std::unique_ptr<Revisions>> Open(const std::string& database_path, const std::string& dir);
  ~Revisions();

  // Takes the finished adapter folder `from` in; gives the revision. The same content again is the same revision.
  absl::StatusOr<std::string> Take(const std::string& name, const std::string& from,
                                   std::optional<double> eval_loss = std::nullopt);
  // Removes all of the name's but the newest `keep`, the one of the lowest eval loss, and the current one.
  absl::Status Prune(const std::string& name, int64_t keep);
  // `name` means it from now on.
  absl::Status MakeCurrent(const std::string& name, const std::string& revision);

  std::string Folder(const std::string& revision) const;
  absl::StatusOr<std::vector<std::string>> Of(const std::string& name) const;  // newest first
  absl::StatusOr<std::string> Current(const std::string& name) const;
  struct Alias {
    std::string name;
    std::string revision;
  };
  absl::StatusOr<std::vector<Alias>> Aliases() const;
  // What a rollback of `name` goes to: `wanted` as NAME@REV or REV, or "" for the one made before the current one.
  absl::StatusOr<std::string> Target(const std::string& name, const std::string& wanted) const;

 private:
  struct Impl;
  explicit Revisions(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
