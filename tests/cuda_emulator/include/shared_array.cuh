#pragma once

#include <vector>

#include <cuda_runtime.h>

#include "tests/cuda_emulator/block.h"

// Stands in for model/ops/cuda/device/shared_array.cuh: every access is checked against the bounds, against what the
// block has written, and against accesses of other threads since the last barrier.
namespace lorad::cuda {

template <typename T, int N>
class SharedArray {
 public:
  class Element {
   public:
    Element(SharedArray* array, int i) : array_(array), i_(i) {}
    operator T() const {  // NOLINT: reads as a T does
      array_->history_[static_cast<size_t>(i_)].Read(i_);
      return array_->values_[i_];
    }
    Element& operator=(T value) {
      array_->history_[static_cast<size_t>(i_)].Write(i_);
      array_->values_[i_] = value;
      return *this;
    }
    Element& operator=(const Element& other) { return *this = static_cast<T>(other); }
    Element& operator+=(T value) { return *this = static_cast<T>(*this) + value; }
    Element& operator*=(T value) { return *this = static_cast<T>(*this) * value; }

   private:
    SharedArray* array_;
    int i_;
  };

  Element operator[](int i) {
    emulator::CheckIndex(i, N);
    return Element(this, i);
  }
  // Counts as a read, which races with plain writes alone.
  void AtomicAdd(int i, T value) {
    emulator::CheckIndex(i, N);
    history_[static_cast<size_t>(i)].Read(i);
    values_[i] += value;
  }
  void PutFour(int i, const uint4& four) {
    emulator::CheckIndex(i % 4, 1);  // where a wide store may begin
    (*this)[i] = four.x, (*this)[i + 1] = four.y, (*this)[i + 2] = four.z, (*this)[i + 3] = four.w;
  }
  uint4 Four(int i) {
    emulator::CheckIndex(i % 4, 1);
    return {(*this)[i], (*this)[i + 1], (*this)[i + 2], (*this)[i + 3]};
  }

 private:
  T values_[N] = {};
  std::vector<emulator::AccessHistory> history_ = std::vector<emulator::AccessHistory>(N);
};

}  // namespace lorad::cuda
