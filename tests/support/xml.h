#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lram::test {

/// Every tag is closed in order, every attribute value quoted, no bare '&' or '<': a page that is
/// written as XML (our reports and plots are) shows the same in any browser.
inline void expect_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  for (std::size_t at = 0; at < xml.size(); ++at) {
    if (xml[at] == '&') {
      const std::size_t end = xml.find(';', at);
      ASSERT_TRUE(end != std::string::npos && end - at <= 6) << xml.substr(at, 40);
    }
    if (xml[at] != '<') continue;
    if (xml.compare(at, 2, "<!") == 0) {
      at = xml.find('>', at);
      continue;
    }
    std::size_t end = at;
    bool quoted = false;
    for (; end < xml.size() && (quoted || xml[end] != '>'); ++end)
      if (xml[end] == '"') quoted = !quoted;
    ASSERT_LT(end, xml.size()) << "unclosed tag: " << xml.substr(at, 60);
    const std::string tag = xml.substr(at + 1, end - at - 1);
    const bool closing = tag[0] == '/', empty = tag.back() == '/';
    const std::string name = tag.substr(closing, tag.find_first_of(" \n/", closing) - closing);
    ASSERT_FALSE(name.empty()) << xml.substr(at, 60);
    ASSERT_EQ(tag.find('<'), std::string::npos) << tag;
    if (closing) {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ(open.back(), name) << xml.substr(at - std::min<std::size_t>(at, 60), 120);
      open.pop_back();
    } else if (!empty) {
      open.push_back(name);
    }
    at = end;
  }
  ASSERT_TRUE(open.empty()) << open.back();
}

}  // namespace lram::test
