#pragma once

#include <string>
#include <vector>

namespace lorad {

// The arguments of main without the program's name, last first, as CLI::App::parse takes them. CLI11 2.1 reads
// "--name=" as an option whose value comes next; here it is an option with an empty value. Nothing after "--" is an
// option.
inline std::vector<std::string> ArgumentsForCli(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  bool options = true;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (text == "--") options = false;
    if (options && text.size() > 3 && text.compare(0, 2, "--") == 0 && text.find('=') == text.size() - 1) {
      arguments.push_back(text.substr(0, text.size() - 1));
      arguments.push_back("");
    } else {
      arguments.push_back(text);
    }
  }
  return {arguments.rbegin(), arguments.rend()};
}

}  // namespace lorad
