#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>

#include "clients/loadgen/sse.h"
#include "clients/loadgen/transport.h"

namespace lorad {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using boost::asio::ip::tcp;
using nlohmann::json;

class HttpTransport final : public Transport {
 public:
  HttpTransport(const std::string& address, std::string base_model) : base_model_(std::move(base_model)) {
    const size_t colon = address.rfind(':');
    host_ = address.substr(0, colon);
    port_ = address.substr(colon + 1);
  }

  // Deadlines are gRPC's: here they are not sent.
  Outcome Run(const Call& call, const Stopwatch& watch) override {
    Outcome outcome;
    outcome.sent_s = watch.Seconds();
    boost::asio::io_context io;
    beast::tcp_stream stream(io);
    beast::error_code error;
    const auto endpoints = tcp::resolver(io).resolve(host_, port_, error);
    if (!error) stream.connect(endpoints, error);
    if (!error) {
      stream.socket().set_option(tcp::no_delay(true), error);
      http::write(stream, MakeRequest(call), error);
    }
    if (!error) ReadAnswer(call, watch, &stream, &outcome, &error);
    if (error) {
      outcome.end = CallEnd::kBroken;
      outcome.detail = error.message();
    }
    outcome.end_s = watch.Seconds();
    return outcome;
  }

 private:
  http::request<http::string_body> MakeRequest(const Call& call) const {
    const json body = {{"model", call.adapter.empty() ? base_model_ : call.adapter},
                       {"prompt", call.prompt},
                       {"max_tokens", call.request.output_tokens},
                       {"temperature", 0},
                       {"ignore_eos", true},
                       {"stream", true},
                       {"stream_options", {{"include_usage", true}}}};
    http::request<http::string_body> request(http::verb::post, "/v1/completions", 11);
    request.set(http::field::host, host_);
    request.set(http::field::content_type, "application/json");
    request.body() = body.dump();
    request.prepare_payload();
    return request;
  }

  void ReadAnswer(const Call& call, const Stopwatch& watch, beast::tcp_stream* stream, Outcome* outcome,
                  beast::error_code* error) const {
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    http::read_header(*stream, buffer, parser, *error);
    if (*error) return;
    const bool accepted = parser.get().result() == http::status::ok;
    CompletionEvents events;
    std::string refusal;
    std::array<char, 16384> bytes;
    while (!parser.is_done()) {
      auto& body = parser.get().body();
      body.data = bytes.data();
      body.size = bytes.size();
      http::read_some(*stream, buffer, parser, *error);
      if (*error == http::error::need_buffer) *error = {};
      if (*error) return;
      const std::string_view piece(bytes.data(), bytes.size() - body.size);
      if (!accepted) {
        refusal += piece;
        continue;
      }
      const int64_t messages = events.Add(piece);
      if (messages > 0) outcome->arrivals.push_back({watch.Seconds(), messages});
      if (call.request.cancel_after_tokens >= 0 && outcome->Tokens() >= call.request.cancel_after_tokens) {
        outcome->end = CallEnd::kCancelled;  // Closing the connection is how HTTP cancels.
        return;
      }
    }
    if (!accepted) {
      outcome->end = CallEnd::kRefused;
      outcome->detail = std::to_string(parser.get().result_int()) + " " + refusal.substr(0, 300);
      return;
    }
    outcome->end = events.finished() ? CallEnd::kComplete : CallEnd::kBroken;
    if (!events.finished()) outcome->detail = "the stream ended without a finish_reason";
    // A message may carry more than one token; the usage at the end is exact.
    const int64_t missing = events.usage_tokens() - outcome->Tokens();
    if (missing != 0 && !outcome->arrivals.empty()) outcome->arrivals.back().tokens += missing;
  }

  const std::string base_model_;
  std::string host_, port_;
};

}  // namespace

std::unique_ptr<Transport> MakeHttpTransport(const std::string& address, const std::string& base_model) {
  return std::make_unique<HttpTransport>(address, base_model);
}

}  // namespace lorad
