#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lorad {

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Serves GET for a few paths, for Prometheus and for probes.
//
// Threads  one light thread runs everything, the handler too: it must not block.
// Limits   8 KiB of request, 10 s for each read or write, 64 connections; more are closed with 503.
class HttpServer final {
 public:
  // `target` is the path without its query.
  using Handler = std::function<HttpResponse(const std::string& target)>;

  // `address` HOST:PORT; port 0 takes a free one. Errors: InvalidArgument for an address that does not resolve,
  // Unavailable for one in use.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address, Handler handler);
  ~HttpServer();

  const std::string& address() const { return address_; }  // with the port that was taken

 private:
  struct Impl;
  HttpServer(std::unique_ptr<Impl> impl, std::string address);
  std::unique_ptr<Impl> impl_;
  const std::string address_;
};

}  // namespace lorad
