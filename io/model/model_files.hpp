// The part of a model folder that one stage needs, mapped.
#pragma once

#include <filesystem>
#include <vector>

#include "io/model/shards.hpp"
#include "io/model/weights.hpp"

namespace jupiter {

class ModelFiles {
 public:
  // Maps the shards of `part` only: no other needs to be on this board's disk. Slices are views of whole files. verify:
  // checks every checksum.
  ModelFiles(const std::filesystem::path& folder, const Manifest& manifest, const ModelPart& part, bool verify);

  const ModelPart& part() const { return part_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const PackedMatrix& embedding() const { return embedding_; }           // [vocab_size][dim]
  const OutputHeadWeights& output_head() const { return output_head_; }  // of a slice: its rows
  const PackedMatrix& whole_output() const { return whole_output_; }     // [vocab_size][dim], for drafters
  std::uint64_t weight_bytes() const { return weight_bytes_; }           // of the matrices and vectors of this part

 private:
  const ShardFile& open(const std::filesystem::path& folder, const Manifest& manifest, const std::string& name,
                        bool verify);
  ModelPart part_;
  std::vector<std::unique_ptr<ShardFile>> files_;
  std::vector<LayerWeights> layers_;
  PackedMatrix embedding_;
  OutputHeadWeights output_head_;
  PackedMatrix whole_output_;
  std::uint64_t weight_bytes_ = 0;
};

// The rows of a layer that a board of a tensor group holds. A matrix of which it holds none is left without rows; of
// the experts, whose rows follow each other, a board takes its part of each when it uses it.
LayerWeights slice_layer(const LayerWeights& whole, const ModelConfig& config, const TensorSlice& slice);

TokenizerData load_tokenizer(const std::filesystem::path& folder, const Manifest& manifest, bool verify);

}  // namespace jupiter
