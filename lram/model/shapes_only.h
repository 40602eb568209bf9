#pragma once
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace lram::model {

/// While it lives, tensors that this thread makes have a shape and no memory (device meta): a model
/// of any size is built in milliseconds, to be counted. Make its tensors within, or not at all.
class ShapesOnly {
 public:
  ShapesOnly();
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;

 private:
  c10::impl::IncludeDispatchKeyGuard mode_;
};

}  // namespace lram::model
