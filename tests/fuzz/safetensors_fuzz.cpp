// Safetensors files: the header, and the place of every tensor.
#include "fuzz_target.hpp"
#include "io/formats/safetensors.hpp"

namespace jupiter::fuzz {
namespace {

const Target target("safetensors", [](Input input) {
  accepted([&] {
    const Safetensors file = parse_safetensors(input, "input");
    for (const std::string_view name : file.names()) {
      accepted([&] {
        const StoredTensor tensor = file.tensor(name);
        expect(tensor.bytes == 0 ||
                   (tensor.data >= input.data() && tensor.data + tensor.bytes <= input.data() + input.size()),
               "a tensor lies outside its file");
        expect(tensor.bytes == gguf_row_bytes(tensor.type, tensor.cols()) * static_cast<std::size_t>(tensor.rows()),
               "a tensor has other bytes than rows");
      });
    }
  });
});

}  // namespace
}  // namespace jupiter::fuzz
