// GGUF files: the directory, what it says of model and tokenizer, the rows of every tensor.
#include "fuzz_target.hpp"
#include "io/formats/gguf.hpp"

namespace jupiter::fuzz {
namespace {

// The first and the last row of each tensor, which must lie in the file.
void read_rows(const StoredTensor& tensor) {
  const std::int64_t cols = tensor.cols();
  const std::size_t row_bytes = gguf_row_bytes(tensor.type, cols);
  expect(row_bytes * static_cast<std::size_t>(tensor.rows()) == tensor.bytes, "a tensor has other bytes than rows");
  constexpr std::int64_t kMostCols = 4096;
  if (cols > kMostCols) return;
  std::vector<float> out(static_cast<std::size_t>(cols));
  for (const std::int64_t row : {std::int64_t{0}, tensor.rows() - 1}) {
    const std::byte* stored = tensor.data + static_cast<std::size_t>(row) * row_bytes;
    dequantize_gguf_row(tensor.type, stored, cols, out.data());
    const auto format = packed_format(tensor.type);
    if (!format || is_float(*format)) continue;
    QuantizedRow quantized(*format, cols);
    read_gguf_row(tensor.type, stored, cols, quantized);
  }
}

const Target target("gguf", [](Input input) {
  accepted([&] {
    const Gguf file = parse_gguf(input, "input");
    for (const StoredTensor& tensor : file.tensors()) {
      read_rows(tensor);
      expect(file.find_tensor(tensor.name) != nullptr, "a tensor is not found by its name");
    }
    accepted([&] { file.config(); });
    accepted([&] { file.tokenizer_data(); });
  });
});

}  // namespace
}  // namespace jupiter::fuzz
