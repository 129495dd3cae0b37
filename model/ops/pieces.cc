#include "model/ops/pieces.h"

#include <algorithm>
#include <utility>

#include "model/base/check.h"

namespace lorad {
namespace {

constexpr int64_t kLeastRows = 32;

thread_local const std::function<void(int64_t products)>* this_threads_listener = nullptr;
thread_local int64_t this_threads_piece_products = kPieceProducts;

}  // namespace

PieceListener::PieceListener(std::function<void(int64_t products)> listener, int64_t piece_products)
    : listener_(std::move(listener)), products_before_(std::exchange(this_threads_piece_products, piece_products)) {
  LORAD_CHECK(this_threads_listener == nullptr);
  this_threads_listener = &listener_;
}

PieceListener::~PieceListener() {
  this_threads_listener = nullptr;
  this_threads_piece_products = products_before_;
}

void BeginPiece(int64_t products) {
  if (this_threads_listener != nullptr) (*this_threads_listener)(products);
}

bool CutsPieces() { return this_threads_listener != nullptr; }

int64_t PieceRows(int64_t products_a_row) {
  return std::max(kLeastRows, this_threads_piece_products / std::max<int64_t>(1, products_a_row));
}

int64_t PieceOutputs(int64_t products_an_output) {
  const int64_t times = this_threads_piece_products / std::max<int64_t>(1, products_an_output * kPieceOutputs);
  return std::max<int64_t>(1, times) * kPieceOutputs;
}

}  // namespace lorad
