#include "tests/cuda_emulator/torch_device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/view_native.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/capture.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/last_error.h"
#include "tests/cuda_emulator/pinned_memory.h"
#include "tests/cuda_emulator/torch_allocators.h"
#include "tests/cuda_emulator/torch_order.h"
#include "tests/cuda_emulator/virtual_memory.h"

extern "C" const lorad::CudaLibrary lorad_cuda_library;

// What LibTorch wants of a device. Tensors on it have the key CUDA and lie in the emulated device's memory; views are
// LibTorch's own; every other of its operators runs its form for the CPU on the same bytes, while they may be touched.
namespace lorad::emulator {
namespace {

const c10::Device kDevice(c10::DeviceType::CUDA, 0);

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &TorchPinnedAllocator(); }
};

// Copies to pinned memory that nobody has waited for: what they copied, and where it belongs.
struct LateCopy {
  int64_t number;
  at::Tensor copied, to;
};
thread_local std::deque<LateCopy> late_copies;
thread_local int64_t copies_made = 0;

// The host waits for the first so many of this thread's.
void ArriveCopies(int64_t count) {
  RefuseInCapture("the host waits");
  if (AnswerOfWait() != 0) {
    late_copies.clear();
    ThrowLastError();
  }
  const c10::InferenceMode no_autograd;
  while (!late_copies.empty() && late_copies.front().number <= count) {
    const PinnedAccess access(late_copies.front().to.const_data_ptr());
    late_copies.front().to.copy_(late_copies.front().copied);
    late_copies.pop_front();
  }
}

std::atomic<int64_t> copies_to_host_aside = 0;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::UNSAFE, kDevice, current_stream);
  }
  c10::Stream exchangeStream(c10::Stream next) const noexcept override {
    return c10::Stream(c10::Stream::UNSAFE, kDevice, std::exchange(current_stream, next.id()));
  }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override {
    return c10::Stream(c10::Stream::UNSAFE, kDevice, kAside);
  }
  c10::Stream getDefaultStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  // Work is done at once, but for copies to the host: an event is the number of those made.
  struct Event {
    int64_t copies;
    Moment moment;
  };
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex device, c10::EventFlag) const override {
    ThrowLastError();
    destroyEvent(*event, device);
    *event = new Event{copies_made, NoteRecorded(StreamOf(stream))};
  }
  void block(void* event, const c10::Stream& stream) const override {
    NoteStreamWaits(StreamOf(stream), static_cast<Event*>(event)->moment);
  }
  bool queryEvent(void* event) const override {
    NoteHostWaits(static_cast<Event*>(event)->moment);
    return true;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    NoteHostWaits(StreamOf(stream));
    ArriveCopies(copies_made);
  }
  void synchronizeEvent(void* event) const override {
    NoteHostWaits(static_cast<Event*>(event)->moment);
    ArriveCopies(static_cast<Event*>(event)->copies);
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
};

const c10::DispatchKeySet kKeys(c10::DispatchKey::CUDA);

at::Tensor Empty(at::IntArrayRef shape, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(shape, &TorchDeviceAllocator(), kKeys, dtype.value_or(at::kFloat), format);
}

at::Tensor EmptyStrided(at::IntArrayRef shape, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                        std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(shape, strides, &TorchDeviceAllocator(), kKeys, dtype.value_or(at::kFloat));
}

// The same bytes as a tensor of the CPU.
at::Tensor OnHost(const at::Tensor& t) {
  if (!t.defined() || !t.is_cuda()) return t;
  return at::for_blob(const_cast<void*>(t.const_data_ptr()), t.sizes())
      .strides(t.strides())
      .options(at::TensorOptions().dtype(t.scalar_type()))
      .make_tensor();
}

// Bytes from the first element to the last.
size_t SpanOf(const at::Tensor& t) {
  if (t.numel() == 0) return 0;
  int64_t last = 0;
  for (int64_t dim = 0; dim < t.dim(); ++dim) last += (t.size(dim) - 1) * t.stride(dim);
  return static_cast<size_t>((last + 1) * static_cast<int64_t>(t.element_size()));
}

std::atomic<int64_t> copies_to_host = 0;
std::atomic<int64_t> bytes_from_host = 0;

// To pinned memory, if nobody waits for it, as late as a device may be.
at::Tensor& Copy(at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  ThrowLastError();
  Stream* const stream = CurrentStream();
  const Ticket ticket = NoteQueued(stream, {"aten::copy_"});
  if (CapturedLaunches* const captured = Capturing()) {
    if (to.is_cpu() || from.is_cpu()) RefuseInCapture("a copy from or to the host");
    captured->Add([ticket, to = OnHost(to), from = OnHost(from)]() mutable {
      const DeviceAccess access;
      const RunningWork running(ticket);
      Reads(running, from);
      Writes(running, to);
      to.copy_(from);
    });
    return to;
  }
  {
    const RunningWork running(ticket);
    Reads(running, from);
    Writes(running, to);
  }
  if (non_blocking) UseOnDevice(to.is_cpu() ? to : from);
  const DeviceAccess access;
  if (to.is_cpu()) ++copies_to_host;
  if (to.is_cpu() && current_stream == kAside) ++copies_to_host_aside;
  if (from.is_cpu() && non_blocking) bytes_from_host += static_cast<int64_t>(from.nbytes());
  if (to.is_cpu() && non_blocking) {
    late_copies.push_back({++copies_made, OnHost(from).clone(), to});
  } else {
    if (to.is_cpu()) ArriveCopies(copies_made);
    OnHost(to).copy_(OnHost(from));
  }
  if (!non_blocking && (to.is_cpu() || from.is_cpu())) {
    NoteHostWaits(stream);
  } else {
    UsePinned(ticket, to.const_data_ptr(), SpanOf(to), /*writes=*/true);
    UsePinned(ticket, from.const_data_ptr(), SpanOf(from), /*writes=*/false);
  }
  return to;
}

at::Tensor ToDevice(const at::Tensor& made) {
  const at::Tensor moved = at::empty_like(made, made.options().device(kDevice));
  const DeviceAccess access;
  OnHost(moved).copy_(made);
  return moved;
}

// An output that its operator gave its size.
void Resize(const at::Tensor& output, const at::Tensor& made) {
  RefuseInCapture("an output without its size");
  const at::Tensor moved = ToDevice(made);
  output.unsafeGetTensorImpl()->set_storage_keep_dtype(moved.storage());
  output.unsafeGetTensorImpl()->set_sizes_contiguous(moved.sizes());
}

// Whether a captured operator may have it: numbers are arguments of a kernel, other memory of the host is none.
bool IsNumber(const at::Tensor& t) { return !t.defined() || (t.is_cpu() && t.dim() == 0); }

// A tensor that an operator was given: on the device, on the host.
struct Given {
  at::Tensor on_device, on_host;
  bool writes;
};
void Touches(const RunningWork& work, const std::vector<Given>& given) {
  for (const Given& tensor : given) tensor.writes ? Writes(work, tensor.on_host) : Reads(work, tensor.on_host);
}

// Does again what an operator did with `arguments`, tensors over the device's bytes; what it makes goes to `outputs`
// [results of the operator], undefined where it wrote in place.
void CaptureOperator(const c10::OperatorHandle& op, const Ticket& ticket, torch::jit::Stack arguments,
                     std::vector<Given> given, std::vector<at::Tensor> outputs) {
  for (Given& tensor : given) tensor.on_device.reset();
  for (at::Tensor& output : outputs) output = OnHost(output);
  Capturing()->Add(
      [op, ticket, arguments = std::move(arguments), given = std::move(given), outputs = std::move(outputs)] {
        const c10::InferenceMode no_autograd;
        const DeviceAccess access;
        const RunningWork running(ticket);
        Touches(running, given);
        torch::jit::Stack stack = arguments;
        op.callBoxed(&stack);
        for (size_t i = 0; i < outputs.size(); ++i) {
          if (!outputs[i].defined()) continue;
          Writes(running, outputs[i]);
          outputs[i].copy_(stack[i].toTensor());
        }
      });
}

// A device adds to a row in the order in which its threads come: index_add in another one each time.
void AddInAnyOrder(torch::jit::Stack* stack, size_t first) {
  static int64_t calls = 0;
  const at::Tensor index = (*stack)[first + 2].toTensor(), source = (*stack)[first + 3].toTensor();
  const int64_t dim = (*stack)[first + 1].toInt();
  const auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(++calls));
  const at::Tensor order = at::randperm(index.numel(), generator);
  (*stack)[first + 2] = at::index_select(index, 0, order);
  (*stack)[first + 3] = at::index_select(source, dim, order);
}

// Runs an operator that only the CPU has. While launches are captured it runs too, for the sizes of what it makes.
void RunOnHost(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  ThrowLastError();
  const DeviceAccess access;
  Stream* const stream = CurrentStream();
  const Ticket ticket = NoteQueued(stream, {op.operator_name().name.c_str()});
  std::vector<Given> given;
  bool writes = false;
  const auto to_host = [&](const at::Tensor& t) {
    if (!t.defined() || !t.is_cuda()) return t;
    given.push_back({t, t.numel() > 0 ? OnHost(t) : at::empty(t.sizes(), t.options().device(at::kCPU)), writes});
    return given.back().on_host;
  };
  const size_t first = stack->size() - op.schema().arguments().size();
  for (size_t i = first; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    const c10::AliasInfo* const alias = op.schema().arguments()[i - first].alias_info();
    writes = alias != nullptr && alias->isWrite();
    if (value.isTensor()) {
      value = to_host(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> tensors = value.toTensorVector();
      for (at::Tensor& t : tensors) t = to_host(t);
      value = std::move(tensors);
    }
  }
  if (op.operator_name().name == "aten::_local_scalar_dense") {
    RefuseInCapture("the host reads a number of the device");
    ++copies_to_host;
  }
  const bool captures = Capturing() != nullptr;
  torch::jit::Stack arguments;
  if (captures) {
    arguments.assign(stack->begin() + static_cast<int64_t>(first), stack->end());
    for (const c10::IValue& value : arguments) {
      const bool from_host = value.isTensor() && !IsNumber(value.toTensor()) &&
                             std::none_of(given.begin(), given.end(), [&](const Given& tensor) {
                               return tensor.on_host.unsafeGetTensorImpl() == value.toTensor().unsafeGetTensorImpl();
                             });
      if (from_host) RefuseInCapture("an operator on memory of the host");
    }
  }
  if (!captures && op.operator_name().name.starts_with("aten::index_add")) AddInAnyOrder(stack, first);
  const RunningWork running(captures ? Ticket{} : ticket);
  if (!captures) Touches(running, given);
  std::vector<at::Tensor> outputs;
  op.callBoxed(stack);
  for (size_t i = first; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    TORCH_CHECK(!value.isTensorList(), op.operator_name(), ": gives several tensors, which the emulated device cannot");
    outputs.emplace_back();
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    const at::Tensor made = value.toTensor();
    const auto same = std::find_if(given.begin(), given.end(), [&](const Given& tensor) {
      return tensor.on_host.unsafeGetTensorImpl() == made.unsafeGetTensorImpl();
    });
    if (same == given.end() && captures) {
      outputs.back() = at::empty_like(made, made.options().device(kDevice));
      value = outputs.back();
      continue;
    }
    value = same == given.end() ? ToDevice(made) : same->on_device;
    if (same != given.end() && same->on_device.numel() != made.numel()) Resize(same->on_device, made);
    Writes(running, value.toTensor());
  }
  if (captures) CaptureOperator(op, ticket, std::move(arguments), std::move(given), std::move(outputs));
  if (op.operator_name().name == "aten::_local_scalar_dense") NoteHostWaits(stream);
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &Empty);
  m.impl("empty_strided", &EmptyStrided);
  m.impl("copy_", &Copy);
  m.impl("view", &at::native::view);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
}
TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&RunOnHost>()); }

}  // namespace

void RegisterDevice() {
  c10::impl::registerDeviceGuard(c10::DeviceType::CUDA, new Guard);
  at::setHostAllocator(c10::DeviceType::CUDA, &TorchPinnedAllocator(), /*priority=*/0);
}

int64_t CopiesToHost() { return copies_to_host; }
int64_t CopiesToHostAside() { return copies_to_host_aside; }
int64_t BytesFromHost() { return bytes_from_host; }

const CudaLibrary& EmulatedLibrary() { return lorad_cuda_library; }

}  // namespace lorad::emulator

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, lorad::emulator::Hooks)
}  // namespace at
