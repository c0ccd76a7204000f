// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The main program of the tests: Catch2's, and two options before it. `--file PATH` runs the test
// cases of one source file (those that are not hidden); PATH is the end of the file's path. `--path
// NAME` begins with another path of the CPU kernels than the processor's best.

#define CATCH_CONFIG_RUNNER
#include "catch.hpp"

#include <kvslim/isa/path.hpp>

#include <cstdio>
#include <string>
#include <vector>

namespace {

/// What Catch2 2 and 3 know of a test case.
template <class Test>
auto const& info_of(Test const& test) {
  if constexpr (requires { test.getTestCaseInfo().isHidden(); })
    return test.getTestCaseInfo();
  else
    return test;
}

/// A test's name as Catch2 reads it on its command line: a comma there would end it.
std::string quoted(std::string const& name) {
  std::string out = "\"";
  for (char const c : name) {
    if (c == ',' || c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

/// Selects the test cases of one file by their names; false if there are none.
bool select_file(Catch::Session& session, std::string const& path) {
  auto data = session.configData();
  auto& chosen = data.testsOrTags;
  for (auto const& test : Catch::getAllTestCasesSorted(session.config())) {
    auto const& info = info_of(test);
    std::string const file = info.lineInfo.file;
    if (info.isHidden() || file.size() < path.size() ||
        file.compare(file.size() - path.size(), path.size(), path) != 0)
      continue;
    if (!chosen.empty()) chosen.emplace_back(",");  // or
    chosen.push_back(quoted(info.name));
  }
  bool const any = !chosen.empty();
  session.useConfigData(data);
  return any;
}

/// Takes the path of this name; false if the processor has none.
bool take_path(std::string const& name) {
  for (auto const path : kvslim::isa::every_path)
    if (name == kvslim::isa::name_of(path)) return kvslim::isa::use(path) == path;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  Catch::Session session;
  std::vector<char*> rest(argv, argv + argc);
  std::string file;
  while (rest.size() >= 3) {
    std::string const option = rest[1], value = rest[2];
    if (option == "--file") {
      file = value;
    } else if (option != "--path") {
      break;
    } else if (!take_path(value)) {
      std::fprintf(stderr, "this processor has no path %s\n", value.c_str());
      return 2;
    }
    rest.erase(rest.begin() + 1, rest.begin() + 3);
  }
  int const parsed = session.applyCommandLine(static_cast<int>(rest.size()), rest.data());
  if (parsed != 0) return parsed;
  if (!file.empty() && !select_file(session, file)) {
    std::fprintf(stderr, "no test case lies in %s\n", file.c_str());
    return 2;
  }
  return session.run();
}
