// A device of torch's own kind for others (PrivateUse1, what an Ascend NPU is), on the memory and the cores of the machine.
//
// What it is for is what it refuses: an operation on tensors of two devices, and reading its memory as the CPU's. Everything else
// is handed to the CPU's kernels by torch's own fallback. float64, which an NPU rounds to float32 or fails on, is refused as well.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <set>
#include <string>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;

struct Memory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* at = std::malloc(bytes ? bytes : 1);
    return {at, at, &std::free, c10::Device(KIND, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override { return {}; }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override { return {size_t(1) << 34, size_t(1) << 34}; }
};

Memory memory;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<KIND> {
  c10::Device exchangeDevice(c10::Device) const override { return {KIND, 0}; }
  c10::Device getDevice() const override { return {KIND, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, {KIND, 0}); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, {KIND, 0}); }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}  // nothing here runs ahead
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeDevice(c10::DeviceIndex) const override {}
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return {KIND, 0}; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::DeviceType::CPU); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<at::CPUGeneratorImpl>(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto made = memory.allocate(bytes);
    std::memcpy(made.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(made));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

// What the CPU may touch: the same bytes under its own name.
at::Tensor on_cpu(const at::Tensor& x) {
  if (x.device().type() != KIND) return x;
  auto* first = static_cast<char*>(x.storage().mutable_data()) + x.storage_offset() * x.element_size();
  return at::from_blob(first, x.sizes(), x.strides(), at::TensorOptions().dtype(x.dtype()).device(at::kCPU));
}

// Indices and probabilities may lie on the CPU beside these, as on CUDA.
const std::set<std::string> MIXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"};
void check(const at::Tensor& x, bool& here, bool& elsewhere) {
  if (!x.defined()) return;
  here |= x.device().type() == KIND;
  elsewhere |= x.device().type() != KIND && x.dim() > 0;
}

void refuse(const std::string& name, bool here, bool elsewhere) {
  TORCH_CHECK(!(here && elsewhere) || MIXED.count(name),
              "Expected all tensors to be on the same device: ", name, " is given some on npu:0 and some on the CPU");
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  bool here = false, elsewhere = false;
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor()) check(value.toTensor(), here, elsewhere);
    if (value.isTensorList()) for (const at::Tensor& one : value.toTensorVector()) check(one, here, elsewhere);
    if (value.isOptionalTensorList())
      for (const std::optional<at::Tensor>& one : value.toOptionalTensorVector()) if (one) check(*one, here, elsewhere);
  }
  refuse(op.schema().name(), here, elsewhere);
  at::native::cpu_fallback(op, stack);
}

void refuse_double(std::optional<at::ScalarType> dtype) {
  TORCH_CHECK_TYPE(dtype != at::kDouble, "npu:0 has no float64");
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
                 std::optional<bool>, std::optional<at::MemoryFormat> format) {
  refuse_double(dtype);
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  refuse_double(dtype);
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar local_scalar(const at::Tensor& x) { return on_cpu(x).item(); }

at::Tensor& set_storage(at::Tensor& x, at::Storage storage) {
  const int64_t count = storage.nbytes() / x.element_size();
  return at::native::set_storage_cpu_(x, storage, 0, {count}, {});
}

at::Tensor& set_empty(at::Tensor& x) {
  return at::native::set_storage_cpu_(x, at::Storage(at::Storage::use_byte_size_t(), 0, memory.allocate(0), &memory, true), 0, {0}, {});
}

int64_t attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
                  std::optional<double>, bool) {
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

// Of whole numbers too, as accelerators count them and the CPU does not.
at::Tensor histc(const at::Tensor& x, int64_t bins, const at::Scalar& low, const at::Scalar& high) {
  return at::histc(on_cpu(x).to(at::kFloat), bins, low, high).to(x.options());
}

using Sizes = at::IntArrayRef;

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, Sizes stride,
                       Sizes padding, Sizes dilation, bool transposed, Sizes output_padding, int64_t groups) {
  bool here = false, elsewhere = false;
  for (const auto& one : {x, weight, bias.value_or(at::Tensor())}) check(one, here, elsewhere);
  refuse("aten::convolution", here, elsewhere);
  const auto added = bias && bias->defined() ? std::optional<at::Tensor>(on_cpu(*bias)) : std::nullopt;
  const auto made = at::convolution(on_cpu(x), on_cpu(weight), added, stride, padding, dilation, transposed, output_padding, groups);
  return made.to(x.device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(const at::Tensor& gradient, const at::Tensor& x,
                                                                    const at::Tensor& weight, Sizes stride, Sizes padding,
                                                                    Sizes dilation, bool transposed, Sizes output_padding,
                                                                    int64_t groups, std::array<bool, 3> wanted) {
  const std::vector<int64_t> biases = {gradient.size(1)};
  const auto place = [&](const at::Tensor& one) { return one.defined() ? one.to(x.device()) : one; };
  const auto [one, two, three] = at::convolution_backward(on_cpu(gradient), on_cpu(x), on_cpu(weight), Sizes(biases), stride,
                                                          padding, dilation, transposed, output_padding, groups, wanted);
  return {place(one), place(two), place(three)};
}

[[maybe_unused]] const bool READY = [] {
  c10::SetAllocator(KIND, &memory);
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &at::native::resize_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("set_", &set_empty);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("histc", &histc);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

}  // namespace

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)
}

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &attention)
}
