// Every kept input again: those that a fuzzer found interesting, and those that were a defect once. A folder on the
// command line takes the place of the kept ones; --gtest_filter chooses targets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "fuzz_target.hpp"
#include "io/files.hpp"

namespace jupiter::fuzz {
namespace {

namespace fs = std::filesystem;

class Replay : public testing::Test {
 public:
  Replay(const Target& target, fs::path corpus) : target_(target), corpus_(std::move(corpus)) {}
  // A defect ends the program, as it ends a fuzzer; JUPITER_FUZZ_VERBOSE then names the inputs as they come.
  void TestBody() override {
    ASSERT_TRUE(fs::is_directory(corpus_)) << corpus_;
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(corpus_)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    ASSERT_FALSE(files.empty()) << corpus_;
    for (const fs::path& file : files) {
      const std::string content = read_file(file);
      if (std::getenv("JUPITER_FUZZ_VERBOSE") != nullptr) std::cerr << file.string() << std::endl;
      run_target(target_, std::as_bytes(std::span(content)));
    }
  }

 private:
  const Target& target_;
  fs::path corpus_;
};

}  // namespace
}  // namespace jupiter::fuzz

int main(int argc, char** argv) {
  using namespace jupiter::fuzz;
  testing::InitGoogleTest(&argc, argv);
  const fs::path corpus = argc > 1 ? argv[1] : JUPITER_FUZZ_CORPUS;
  for (const Target* target : all_targets()) {
    testing::RegisterTest("Fuzz", target->name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                          [target, corpus]() -> testing::Test* { return new Replay(*target, corpus / target->name); });
  }
  return RUN_ALL_TESTS();
}
