#include "lram/model/shapes_only.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace lram::model {
namespace {
// Of the keys that LibTorch keeps for the use of others, this one comes before all devices.
constexpr c10::DispatchKey kMode = c10::DispatchKey::TESTING_ONLY_GenericMode;

bool is_device(const c10::Type& type) {
  if (type.kind() == c10::TypeKind::DeviceObjType) return true;
  const auto* optional = type.castRaw<c10::OptionalType>();
  return optional != nullptr && is_device(*optional->getElementType());
}

/// Runs the operator with `meta` for every argument that is a device.
void on_meta(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const std::size_t first = stack->size() - arguments.size();
  for (std::size_t i = 0; i < arguments.size(); ++i)
    if (is_device(*arguments[i].type())) (*stack)[first + i] = c10::Device(c10::kMeta);
  const c10::impl::ExcludeDispatchKeyGuard once(kMode);
  op.callBoxed(stack);
}

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_meta>());
}
}  // namespace

ShapesOnly::ShapesOnly() : mode_(kMode) {}

}  // namespace lram::model
