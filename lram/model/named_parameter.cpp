#include "lram/model/named_parameter.h"

#include <memory>
#include <utility>

namespace lram::model {

torch::Tensor add_parameter(torch::nn::Module& root, const std::string& name, torch::Tensor value) {
  const std::size_t dot = name.find('.');
  if (dot == std::string::npos) return root.register_parameter(name, std::move(value));
  const std::string first = name.substr(0, dot);
  const auto children = root.named_children();
  const auto child = children.contains(first)
                         ? children[first]
                         : root.register_module(first, std::make_shared<torch::nn::Module>(first));
  return add_parameter(*child, name.substr(dot + 1), std::move(value));
}

}  // namespace lram::model
