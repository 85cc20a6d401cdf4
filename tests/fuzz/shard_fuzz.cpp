// Shards (HDF5): their datasets lie in the file, whatever it says. Layer and tokenizer, with checksums and without.
#include <numeric>

#include "fuzz_target.hpp"
#include "hdf5_samples.hpp"
#include "io/tokenizer/tokenizer.hpp"

namespace jupiter::fuzz {
namespace {

// Reads all of it, so that the sanitizer looks at every byte.
std::uint64_t sum_of(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0},
                         [](std::uint64_t sum, std::byte b) { return sum + std::to_integer<std::uint64_t>(b); });
}

void read_layer(const ShardFile& file) {
  for (const DatasetInfo& d : sample_layer_info().datasets) {
    accepted([&] {
      if (d.kind == DatasetInfo::Kind::matrix) {
        const PackedMatrix m = file.matrix(d.name, d.rows, d.cols);
        std::vector<float> row(static_cast<std::size_t>(d.cols));
        for (std::int64_t i = 0; i < d.rows; ++i) dequantize_row(m, i, row.data());
      } else {
        sum_of(std::as_bytes(file.vector(d.name, d.cols)));
      }
    });
  }
}

const Target target("shard",
                    [](Input input) {
                      Pieces pieces(input);
                      const std::uint8_t how = pieces.byte();
                      const bool tokenizer = (how & 1) != 0, verify = (how & 2) != 0;
                      const MemoryFile memory(
                          changed_sample(tokenizer ? Sample::tokenizer : Sample::layer, pieces.rest()));
                      const std::filesystem::path path(memory.path());
                      FileInfo info = tokenizer ? sample_tokenizer_info() : sample_layer_info();
                      info.name = path.filename().string();
                      verify_shard(path.parent_path(), info);
                      accepted([&] {
                        const ShardFile file(path.parent_path(), info, verify);
                        if (!tokenizer) return read_layer(file);
                        const Tokenizer t(read_tokenizer(file, sample_vocab_size()), "tokenizer.h5");
                        t.decode(t.encode("ab <s> \n", true));
                      });
                    },
                    {.floor_bytes = 4 << 20});

}  // namespace
}  // namespace jupiter::fuzz
