#pragma once

#include <cstdint>
#include <functional>

namespace lorad {

// A long computation that others may want to interrupt is cut into pieces, and says before each how large it is.
// Results do not depend on who listens: where the cuts are follows from shapes alone.

// A piece of a matmul: 1 to 2 ms of two cores.
inline constexpr int64_t kPieceProducts = int64_t{1} << 27;

// What is told on this thread while the object lives: `listener(products)` is called before a piece of about that many
// multiplications and may wait. Matmuls are cut into pieces of `piece_products`. One a thread.
class PieceListener final {
 public:
  explicit PieceListener(std::function<void(int64_t products)> listener, int64_t piece_products = kPieceProducts);
  ~PieceListener();
  PieceListener(const PieceListener&) = delete;
  PieceListener& operator=(const PieceListener&) = delete;

 private:
  const std::function<void(int64_t products)> listener_;
  const int64_t products_before_;
};

// Nothing where nobody listens.
void BeginPiece(int64_t products);
bool CutsPieces();  // somebody listens on this thread

// Rows of a matmul's pieces, but enough rows to be worth reading the weight.
int64_t PieceRows(int64_t products_a_row);
// Outputs of its pieces, where all outputs of so few rows are still too many: a multiple of kPieceOutputs.
inline constexpr int64_t kPieceOutputs = 1024;
int64_t PieceOutputs(int64_t products_an_output);

}  // namespace lorad
