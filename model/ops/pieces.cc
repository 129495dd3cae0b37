#include "model/ops/pieces.h"

#include <algorithm>
#include <utility>

#include "model/base/check.h"

namespace lorad {
namespace {

constexpr int64_t kPieceProducts = int64_t{1} << 27;
constexpr int64_t kLeastRows = 32;

thread_local const std::function<void(int64_t products)>* this_threads_listener = nullptr;

}  // namespace

PieceListener::PieceListener(std::function<void(int64_t products)> listener) : listener_(std::move(listener)) {
  LORAD_CHECK(this_threads_listener == nullptr);
  this_threads_listener = &listener_;
}

PieceListener::~PieceListener() { this_threads_listener = nullptr; }

void BeginPiece(int64_t products) {
  if (this_threads_listener != nullptr) (*this_threads_listener)(products);
}

bool CutsPieces() { return this_threads_listener != nullptr; }

int64_t PieceRows(int64_t products_a_row) {
  return std::max(kLeastRows, kPieceProducts / std::max<int64_t>(1, products_a_row));
}

int64_t PieceOutputs(int64_t products_an_output) {
  const int64_t times = kPieceProducts / std::max<int64_t>(1, products_an_output * kPieceOutputs);
  return std::max<int64_t>(1, times) * kPieceOutputs;
}

}  // namespace lorad
