#include "server/adapter_service.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "scheduler/find_adapter.h"
#include "server/merge_reactor.h"
#include "server/to_proto.h"
#include "server/unary_answer.h"

namespace lorad {
namespace {

// Gives the reply of an engine's command to the call that waits for it. A call that was cancelled meanwhile still ends
// here.
class AdapterReactor final : public grpc::ServerUnaryReactor {
 public:
  AdapterReactor(v1::Adapter* response, Log* log, std::string what, const std::string& name)
      : response_(response), log_(log), what_(std::move(what)), name_(name.substr(0, kMaxAdapterNameBytes)) {}

  // ResourceExhausted when this is one more than `limit` of the calls that are counted in `open`, which outlives them.
  absl::Status CountIn(std::atomic<int>* open, int limit) {
    open_ = open;
    const int others = open_->fetch_add(1);
    if (others < limit) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("calls under way of this kind: ", others, "; limit: ", limit, "; retry later"));
  }

  void End(const absl::Status& status) {
    if (status.ok()) {
      log_->Info(what_, {{"adapter", name_}});
    } else {
      log_->Warning(absl::StrCat(what_, "_failed"), {{"adapter", name_}, {"status", status.ToString()}});
    }
    Finish(ToGrpc(status));
  }
  // With a `backend` the answer has the adapter's revisions, too.
  void EndWith(const absl::StatusOr<AdapterInfo>& info, const Backend* backend = nullptr) {
    if (info.ok() && response_ != nullptr) *response_ = ToProto(*info);
    if (info.ok() && backend != nullptr && backend->fill_revisions) backend->fill_revisions(response_);
    End(info.status());
  }
  void OnDone() override {
    if (open_ != nullptr) open_->fetch_sub(1);
    delete this;
  }

 private:
  std::atomic<int>* open_ = nullptr;
  v1::Adapter* const response_;
  Log* const log_;
  const std::string what_;
  const std::string name_;
};

absl::Status StartLoad(const Backend& backend, const v1::LoadAdapterRequest& request, AdapterReactor* reactor) {
  RETURN_IF_ERROR(CheckAdapterName(request.name()));
  LoadCommand command;
  command.name = request.name();
  ASSIGN_OR_RETURN(command.path, JoinAdapterPath(request.path(), backend.adapter_roots));
  command.pinned = request.pinned();
  command.replace = request.replace();
  command.reply = [reactor](const absl::StatusOr<AdapterInfo>& info) { reactor->EndWith(info); };
  return backend.engine->Load(std::move(command));
}

absl::Status StartUnload(const Backend& backend, const v1::UnloadAdapterRequest& request, AdapterReactor* reactor) {
  RETURN_IF_ERROR(CheckAdapterName(request.name()));
  return backend.engine->Unload({request.name(), [reactor](const absl::Status& status) { reactor->End(status); }});
}

absl::Status StartPin(const Backend& backend, const v1::PinAdapterRequest& request, AdapterReactor* reactor) {
  RETURN_IF_ERROR(CheckAdapterName(request.name()));
  return backend.engine->Pin({request.name(), request.pinned(),
                              [reactor](const absl::StatusOr<AdapterInfo>& info) { reactor->EndWith(info); }});
}

absl::Status StartRollback(const Backend& backend, const v1::RollbackAdapterRequest& request, AdapterReactor* reactor) {
  RETURN_IF_ERROR(CheckAdapterName(request.name()));
  if (!backend.rollback) {
    return absl::FailedPreconditionError(
        "revisions: none; limit: a daemon with --state-dir, where trained ones are kept");
  }
  backend.rollback(request.name(), request.revision(),
                   [reactor, &backend](const absl::StatusOr<AdapterInfo>& info) { reactor->EndWith(info, &backend); });
  return absl::OkStatus();
}

// The token is the last name given; a name may be listed twice while its old version drains, and both are then on the
// same page.
absl::Status FillPage(const AdapterListing& listing, const v1::ListAdaptersRequest& request,
                      v1::ListAdaptersResponse* response) {
  const auto begin = std::upper_bound(listing.all.begin(), listing.all.end(), request.page_token(),
                                      [](const std::string& token, const auto& info) { return token < info->name; });
  for (auto it = request.page_token().empty() ? listing.all.begin() : begin; it != listing.all.end(); ++it) {
    const int size = response->adapters_size();
    if (request.page_size() > 0 && size >= static_cast<int64_t>(request.page_size()) &&
        response->adapters(size - 1).name() != (*it)->name) {
      response->set_next_page_token(response->adapters(size - 1).name());
      break;
    }
    *response->add_adapters() = ToProto(**it);
  }
  return absl::OkStatus();
}

absl::Status FindAdapter(const AdapterListing& listing, const std::string& name, v1::Adapter* response) {
  RETURN_IF_ERROR(CheckAdapterName(name));
  if (const AdapterInfo* const found = FindListed(listing, name); found != nullptr) {
    *response = ToProto(*found);
    PutExpertLoad(*found, response);
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("adapter: ", name, "; limit: a known name; load it first"));
}

}  // namespace

grpc::ServerUnaryReactor* AdapterService::LoadAdapter(grpc::CallbackServerContext*,
                                                      const v1::LoadAdapterRequest* request, v1::Adapter* response) {
  auto* reactor = new AdapterReactor(response, log_, "adapter_loaded", request->name());
  const absl::StatusOr<const Backend*> backend = readiness_->Get();
  absl::Status status = reactor->CountIn(&open_loads_, kMaxOpenLoads);
  if (status.ok()) status = backend.ok() ? StartLoad(**backend, *request, reactor) : backend.status();
  if (!status.ok()) reactor->End(status);
  return reactor;
}

grpc::ServerUnaryReactor* AdapterService::UnloadAdapter(grpc::CallbackServerContext*,
                                                        const v1::UnloadAdapterRequest* request,
                                                        v1::UnloadAdapterResponse*) {
  auto* reactor = new AdapterReactor(nullptr, log_, "adapter_unloaded", request->name());
  const absl::StatusOr<const Backend*> backend = readiness_->Get();
  const absl::Status status = backend.ok() ? StartUnload(**backend, *request, reactor) : backend.status();
  if (!status.ok()) reactor->End(status);
  return reactor;
}

grpc::ServerUnaryReactor* AdapterService::PinAdapter(grpc::CallbackServerContext*, const v1::PinAdapterRequest* request,
                                                     v1::Adapter* response) {
  auto* reactor =
      new AdapterReactor(response, log_, request->pinned() ? "adapter_pinned" : "adapter_unpinned", request->name());
  const absl::StatusOr<const Backend*> backend = readiness_->Get();
  const absl::Status status = backend.ok() ? StartPin(**backend, *request, reactor) : backend.status();
  if (!status.ok()) reactor->End(status);
  return reactor;
}

grpc::ServerUnaryReactor* AdapterService::ListAdapters(grpc::CallbackServerContext* context,
                                                       const v1::ListAdaptersRequest* request,
                                                       v1::ListAdaptersResponse* response) {
  const absl::StatusOr<const Backend*> backend = readiness_->GetToRead();
  if (!backend.ok()) return FinishWith(context, backend.status());
  UnaryAnswer* const answer = UnaryAnswer::Start(context, *backend);
  const absl::Status status = FillPage(*(*backend)->engine->snapshot()->adapters, *request, response);
  answer->End(status, response->ByteSizeLong());
  return answer;
}

grpc::ServerUnaryReactor* AdapterService::GetAdapter(grpc::CallbackServerContext* context,
                                                     const v1::GetAdapterRequest* request, v1::Adapter* response) {
  const absl::StatusOr<const Backend*> backend = readiness_->GetToRead();
  if (!backend.ok()) return FinishWith(context, backend.status());
  const absl::Status status = FindAdapter(*(*backend)->engine->snapshot()->adapters, request->name(), response);
  if (status.ok() && (*backend)->fill_revisions) (*backend)->fill_revisions(response);
  return FinishWith(context, status);
}

grpc::ServerUnaryReactor* AdapterService::RollbackAdapter(grpc::CallbackServerContext*,
                                                          const v1::RollbackAdapterRequest* request,
                                                          v1::Adapter* response) {
  auto* reactor = new AdapterReactor(response, log_, "adapter_rolled_back", request->name());
  const absl::StatusOr<const Backend*> backend = readiness_->Get();
  absl::Status status = backend.ok() ? StartRollback(**backend, *request, reactor) : backend.status();
  if (!status.ok()) reactor->End(status);
  return reactor;
}

grpc::ServerWriteReactor<v1::MergeProgress>* AdapterService::MergeAdapter(grpc::CallbackServerContext*,
                                                                          const v1::MergeAdapterRequest* request) {
  return MergeReactor::Start(readiness_->Get(), *request, log_);
}

}  // namespace lorad
