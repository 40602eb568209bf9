// Builds a policy with the installed libraries.
#include <cstdio>

#include "lram/model/policy.h"

int main() {
  lram::model::PolicyConfig config;
  config.embed_dim = 32;
  config.num_blocks = 2;
  lram::model::Policy policy(config);
  std::printf("%zu tensors\n", policy.parameters().size());
  return policy.parameters().empty() ? 1 : 0;
}
