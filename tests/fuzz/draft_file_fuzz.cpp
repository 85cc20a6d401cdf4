// Draft files, the state of a training, and saved logits (all HDF5); Medusa heads as they are published (safetensors).
#include "fuzz_target.hpp"
#include "hdf5_samples.hpp"
#include "io/model/reference_logits.hpp"

namespace jupiter::fuzz {
namespace {

void check_draft(const std::string& path) {
  const DraftData d = read_draft(path, sample_manifest());
  const auto vocab_size = d.identity.vocab_size;
  for (const DraftTable& t : d.tables) {
    expect(t.first.size() == t.contexts() + 1 && t.first.back() == t.tokens.size(), "rows of a table do not fit");
    for (const TokenId token : t.tokens) expect(token >= 0 && token < vocab_size, "a token outside the vocabulary");
  }
  if (d.sequential) expect(std::ssize(d.sequential->weights) == d.sequential->shape.size(), "a head of another size");
}

void check_reference(const std::string& path) {
  const ReferenceFile file(path);
  std::uint64_t sum = 0;
  for (std::int64_t row = 0; row < std::ssize(file.info().tokens); ++row) {
    for (const f16_t value : file.row(row)) sum += static_cast<std::uint64_t>(value);
  }
  expect(sum < UINT64_MAX, "logits that cannot be read");
}

const Target target("draft_file",
                    [](Input input) {
                      Pieces pieces(input);
                      const std::size_t kind = pieces.byte() % 4;
                      const Input rest = pieces.rest();
                      constexpr Sample kSamples[] = {Sample::draft, Sample::training, Sample::reference};
                      const MemoryFile file(kind == 3 ? std::vector(rest.begin(), rest.end())
                                                      : changed_sample(kSamples[kind], rest));
                      accepted([&] {
                        switch (kind) {
                          case 0:
                            return check_draft(file.path());
                          case 1:
                            return (void)read_draft_head_training(file.path(), sample_training().key,
                                                                  sample_training_size());
                          case 2:
                            return check_reference(file.path());
                          default:
                            return (void)read_medusa_safetensors(file.path(), sample_manifest());
                        }
                      });
                    },
                    {.floor_bytes = 4 << 20});

}  // namespace
}  // namespace jupiter::fuzz
