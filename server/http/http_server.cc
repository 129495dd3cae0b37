#include "server/http/http_server.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr uint64_t kMaxRequestBytes = 8 << 10;
constexpr std::chrono::seconds kTimeout{10};
constexpr int kMaxConnections = 64;
constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr char kTooMany[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\n"
    "Connection: close\r\n\r\nconnections: too many; limit: 64; retry later";

// One connection: read a request, write its answer, again while the client keeps it open. Lives as long as its
// operations; the io_context has one thread.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const HttpServer::Handler* handler, int* connections)
      : stream_(std::move(socket)), handler_(handler), connections_(connections) {
    ++*connections_;
  }
  ~Connection() { --*connections_; }

  void Read() {
    parser_.emplace();
    parser_->header_limit(kMaxRequestBytes);
    parser_->body_limit(kMaxRequestBytes);
    stream_.expires_after(kTimeout);
    http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](error_code error, size_t) {
      if (error == http::error::header_limit || error == http::error::body_limit) {
        self->Write({431, "text/plain; charset=utf-8", "request: too large; limit: 8 KiB; send a plain GET\n"}, 11,
                    false, false);
      } else if (!error) {
        self->Answer();
      }
    });
  }

 private:
  void Answer() {
    const auto& request = parser_->get();
    const bool head = request.method() == http::verb::head;
    const std::string target(request.target().data(), request.target().size());
    HttpResponse answer;
    if (request.method() != http::verb::get && !head) {
      answer = {405, "text/plain; charset=utf-8", "method: not GET; limit: GET and HEAD\n"};
    } else {
      answer = (*handler_)(target.substr(0, target.find('?')));
    }
    Write(std::move(answer), request.version(), request.keep_alive(), head);
  }

  void Write(HttpResponse answer, unsigned version, bool keep_alive, bool head) {
    response_ = http::response<http::string_body>(static_cast<http::status>(answer.status), version);
    response_.set(http::field::content_type, answer.content_type);
    response_.keep_alive(keep_alive && answer.status == 200);
    response_.content_length(answer.body.size());
    if (!head) response_.body() = std::move(answer.body);
    stream_.expires_after(kTimeout);
    serializer_.emplace(response_);
    const auto done = [self = shared_from_this()](error_code error, size_t) {
      if (error) return;
      if (self->response_.keep_alive()) {
        self->Read();
        return;
      }
      error_code ignored;
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    };
    if (head) {
      http::async_write_header(stream_, *serializer_, done);
    } else {
      http::async_write(stream_, *serializer_, done);
    }
  }

  beast::tcp_stream stream_;
  const HttpServer::Handler* const handler_;
  int* const connections_;
  beast::flat_buffer buffer_{2 * kMaxRequestBytes};
  std::optional<http::request_parser<http::empty_body>> parser_;
  http::response<http::string_body> response_;
  std::optional<http::serializer<false, http::string_body>> serializer_;
};

}  // namespace

struct HttpServer::Impl {
  explicit Impl(Handler given) : handler(std::move(given)) {}

  absl::Status Listen(const std::string& address) {
    const size_t colon = address.rfind(':');
    std::string host = address.substr(0, colon);
    if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
    error_code error;
    tcp::resolver resolver(context);
    const auto found = resolver.resolve(host, address.substr(colon + 1), error);
    if (error || found.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--metrics: ", address, "; limit: an address of this machine; ", error.message()));
    }
    const tcp::endpoint endpoint = *found.begin();
    acceptor.open(endpoint.protocol(), error);
    if (!error)
      acceptor.set_option(asio::socket_base::reuse_address(true), error);  // Not SO_REUSEPORT: one daemon a port.
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(absl::StrCat("--metrics: ", address, "; limit: a free port; ", error.message(),
                                                 "; stop what uses it, or give another"));
    }
    return absl::OkStatus();
  }

  void Accept() {
    acceptor.async_accept([this](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) {  // Out of descriptors or memory: at once it would fail again.
        pause.expires_after(kAcceptPause);
        pause.async_wait([this](error_code cancelled) {
          if (!cancelled) Accept();
        });
        return;
      }
      if (connections < kMaxConnections) {
        std::make_shared<Connection>(std::move(socket), &handler, &connections)->Read();
      } else {
        Refuse(&socket);
      }
      Accept();
    });
  }

  // Nothing is kept for it; what its buffer does not take at once is lost.
  static void Refuse(tcp::socket* socket) {
    error_code ignored;
    socket->non_blocking(true, ignored);
    if (!ignored) socket->write_some(asio::buffer(kTooMany, sizeof(kTooMany) - 1), ignored);
    socket->shutdown(tcp::socket::shutdown_send, ignored);
  }

  const Handler handler;
  int connections = 0;
  asio::io_context context{1};
  tcp::acceptor acceptor{context};
  asio::steady_timer pause{context};
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address, Handler handler) {
  auto impl = std::make_unique<Impl>(std::move(handler));
  RETURN_IF_ERROR(impl->Listen(address));
  error_code error;
  const uint16_t port = impl->acceptor.local_endpoint(error).port();
  const std::string taken = absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
  impl->Accept();
  impl->thread = std::thread([raw = impl.get()] { raw->context.run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl), taken));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl, std::string address)
    : impl_(std::move(impl)), address_(std::move(address)) {}

HttpServer::~HttpServer() {
  impl_->context.stop();
  impl_->thread.join();
}

}  // namespace lorad
