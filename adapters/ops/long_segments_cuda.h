#pragma once

#include <string>
#include <vector>

namespace lorad::cuda {

// Whether long segments are added on tensor cores (cuda/long_segment_kernels.h): not once CheckLongSegments has found
// them to differ, or they are left out.
bool UsesLongSegments();
// Compares both forms on LibTorch's current device. A line if they differ, or one fails.
std::vector<std::string> CheckLongSegments();

// CheckFastForms (model/ops/compare_forms_cuda.h) and this.
std::vector<std::string> CheckFormsOfDevice(std::vector<std::string>* used);
// LeaveOutFastForms, and the form of short segments for all.
void LeaveOutFormsOfDevice();

}  // namespace lorad::cuda
