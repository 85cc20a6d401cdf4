// The groups of a draft file that hold heads. Only sources of this folder include it.
#pragma once

#include "io/model/draft_heads.hpp"
#include "io/model/hdf5_handle.hpp"

namespace jupiter {

// Group "head": attributes units and accuracy, datasets tokens u32, w1, b1, w2, gain f16.
void write_sequential_head(hid_t file, const SequentialHead& head);
std::optional<SequentialHead> read_sequential_head(hid_t file, const std::string& name, const DraftIdentity& identity);
// Group "medusa": attributes heads and layers, datasets head_I_output, head_I_layer_L_weight, head_I_layer_L_bias, f16.
void write_medusa(hid_t file, const MedusaHeads& medusa);
std::optional<MedusaHeads> read_medusa(hid_t file, const std::string& name, const DraftIdentity& identity);

}  // namespace jupiter
