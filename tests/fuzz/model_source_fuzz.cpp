// Whole models to convert, a GGUF file or a Hugging Face folder: every tensor that the configuration asks for can be
// read, row by row.
#include <filesystem>
#include <fstream>

#include "fuzz_target.hpp"
#include "io/convert/model_source.hpp"

namespace jupiter::fuzz {
namespace {

namespace fs = std::filesystem;

// First and last row of every tensor.
void read_tensors(const ModelSource& source) {
  for (const TensorSpec& spec : tensor_specs(source.config())) {
    if (!source.has(spec.canonical)) continue;
    const SourceTensor& tensor = source.tensor(spec.canonical);
    if (spec.rows == 0) {
      source.read_vector(spec.canonical);
      continue;
    }
    std::vector<float> row(static_cast<std::size_t>(tensor.cols));
    for (const std::int64_t i : {std::int64_t{0}, tensor.rows - 1}) {
      source.read_row_f32(tensor, i, row.data());
      if (is_float(tensor.format)) continue;
      QuantizedRow quantized(tensor.format, tensor.cols);
      source.read_row(tensor, i, quantized);
    }
    source.release(tensor);
  }
}

// A folder of this process whose files change with every input.
class ModelFolder {
 public:
  ModelFolder() {
    const fs::path shared = "/dev/shm";
    path_ = ((fs::exists(shared) ? shared : fs::temp_directory_path()) / "jupiter-fuzz-XXXXXX").string();
    expect(::mkdtemp(path_.data()) != nullptr, "a temporary folder cannot be made");
  }
  ~ModelFolder() { fs::remove_all(path_); }
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;
  void write(const std::string& name, std::string_view content) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// config.json and tokenizer.json, a line each, then the weights.
void check_folder(Input input) {
  static const ModelFolder folder;
  Pieces parts(input);
  folder.write("config.json", parts.part('\n'));
  folder.write("tokenizer.json", parts.part('\n'));
  folder.write("model.safetensors", as_text(parts.rest()));
  accepted([&] { read_tensors(*open_model_source(folder.path())); });
}

const Target target("model_source",
                    [](Input input) {
                      Pieces pieces(input);
                      const bool in_folder = pieces.byte() % 2 != 0;
                      if (in_folder) return check_folder(pieces.rest());
                      const MemoryFile file(pieces.rest());
                      accepted([&] { read_tensors(*open_model_source(file.path())); });
                    },
                    {.times_input = 8, .floor_bytes = 4 << 20});

}  // namespace
}  // namespace jupiter::fuzz
