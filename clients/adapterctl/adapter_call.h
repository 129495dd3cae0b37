#pragma once

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/session.h"
#include "lorad/v1/adapters.grpc.pb.h"

namespace lorad::adapterctl {

// Makes one call of service Adapters and shows the adapter that it answers with; the exit code.
template <typename Request>
int ShowAnswer(Session& session,
               grpc::Status (v1::Adapters::Stub::*call)(grpc::ClientContext*, const Request&, v1::Adapter*),
               const Request& request) {
  const auto channel = session.Connect();
  if (!channel) return kUnreachable;
  const auto stub = v1::Adapters::NewStub(channel);
  grpc::ClientContext context;
  v1::Adapter adapter;
  const grpc::Status status = ((*stub).*call)(&context, request, &adapter);
  if (!status.ok()) return session.Fail(status);
  PrintAdapter(adapter, session.json());
  return kDone;
}

}  // namespace lorad::adapterctl
