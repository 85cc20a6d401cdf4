// Small HDF5 files of each kind that is read, whole: seeds of the targets that read them, which know what they should
// hold.
#pragma once

#include "fuzz_target.hpp"
#include "io/model/draft_file.hpp"
#include "io/model/shards.hpp"

namespace jupiter::fuzz {

std::int64_t sample_vocab_size();
std::int64_t sample_training_size();
const DraftHeadTraining& sample_training();
const Manifest& sample_manifest();  // of the model that the draft file is for
const FileInfo& sample_layer_info();
const FileInfo& sample_tokenizer_info();

enum class Sample : std::uint8_t { layer, tokenizer, draft, training, reference };
// The file with bytes changed: the input is a list of a place (2 bytes) and a value. Places count what is not zero, and
// what stands near it: a shard is mostly gaps between its datasets, in which nothing can go wrong.
std::vector<std::byte> changed_sample(Sample sample, Input changes);

}  // namespace jupiter::fuzz
