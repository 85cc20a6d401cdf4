// Storage of keys (transposed within a block, so that a lane is a position) and values (plain rows).
#include "kernels/kv_cache.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <string>

#include "io/enum_names.hpp"
#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::string_view, 3> kKvNames = {"f16", "f32", "q8_0"};
constexpr std::int64_t kQ8Group = 32;  // dimensions of one head that share a scale

std::int64_t block_bytes(KvType type, std::int64_t head_dim) {
  const std::int64_t elements = head_dim * kKvBlock;
  switch (type) {
    case KvType::f16:
      return elements * 2;
    case KvType::f32:
      return elements * 4;
    default:
      return elements + elements / kQ8Group * 2;  // integers, then f16 scales
  }
}

// Stores x[n] with the given stride in elements.
bool store(KvType type, const float* x, std::int64_t n, std::byte* block, std::int64_t offset, std::int64_t stride) {
  bool fits = true;
  if (type == KvType::f32) {
    float* to = reinterpret_cast<float*>(block) + offset;
    for (std::int64_t i = 0; i < n; ++i) {
      to[i * stride] = x[i];
      fits &= std::isfinite(x[i]);
    }
    return fits;
  }
  f16_t* to = reinterpret_cast<f16_t*>(block) + offset;
  for (std::int64_t i = 0; i < n; ++i) {
    const f16_t h = f32_to_f16(x[i]);
    to[i * stride] = h;
    fits &= (h & 0x7c00u) != 0x7c00u;
  }
  return fits;
}

// One group of 32 dimensions as integers and an f16 scale.
bool store_q8(const float* x, std::int8_t* to, std::int64_t stride, f16_t* scale) {
  float largest = 0;
  for (std::int64_t i = 0; i < kQ8Group; ++i) largest = std::max(largest, std::fabs(x[i]));
  *scale = f32_to_f16(largest / 127.0f);
  const float s = f16_to_f32(*scale);
  for (std::int64_t i = 0; i < kQ8Group; ++i) {
    const float q = s > 0 ? std::nearbyintf(x[i] / s) : 0.0f;
    to[i * stride] = static_cast<std::int8_t>(std::clamp(q, -127.0f, 127.0f));
  }
  return std::isfinite(largest) && std::isfinite(s);
}

// Elements of one position in a block: keys are columns (dimension by dimension), values are rows.
template <typename T>
void copy_elements(std::int64_t n, bool columns, std::int64_t width, const std::byte* from, std::int64_t from_lane,
                   std::byte* to, std::int64_t to_lane) {
  const T* x = reinterpret_cast<const T*>(from);
  T* y = reinterpret_cast<T*>(to);
  for (std::int64_t i = 0; i < n; ++i) {
    y[columns ? i * kKvBlock + to_lane : to_lane * width + i] =
        x[columns ? i * kKvBlock + from_lane : from_lane * width + i];
  }
}

void copy_lane(KvType type, std::int64_t dim, bool columns, const std::byte* from, std::int64_t from_lane,
               std::byte* to, std::int64_t to_lane) {
  if (type == KvType::f32) return copy_elements<float>(dim, columns, dim, from, from_lane, to, to_lane);
  if (type == KvType::f16) return copy_elements<f16_t>(dim, columns, dim, from, from_lane, to, to_lane);
  const std::int64_t scales = dim / kQ8Group, at = dim * kKvBlock;
  copy_elements<std::int8_t>(dim, columns, dim, from, from_lane, to, to_lane);
  copy_elements<f16_t>(scales, columns, scales, from + at, from_lane, to + at, to_lane);
}

// Element d of a position in a block.
float element(KvType type, std::int64_t dim, bool columns, const std::byte* block, std::int64_t lane, std::int64_t d) {
  const std::int64_t i = columns ? d * kKvBlock + lane : lane * dim + d;
  if (type == KvType::f32) return reinterpret_cast<const float*>(block)[i];
  if (type == KvType::f16) return f16_to_f32(reinterpret_cast<const f16_t*>(block)[i]);
  const auto* scales = reinterpret_cast<const f16_t*>(block + dim * kKvBlock);
  const std::int64_t group = d / kQ8Group;
  return static_cast<float>(reinterpret_cast<const std::int8_t*>(block)[i]) *
         f16_to_f32(scales[columns ? group * kKvBlock + lane : lane * (dim / kQ8Group) + group]);
}

void* reserve_pages(std::size_t bytes) {
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw MemoryError("KV cache: " + std::to_string(bytes >> 20) + " MiB cannot be reserved");
  return p;
}

}  // namespace

std::string_view name(KvType type) {
  return kKvNames[index_of(type)];
}

std::optional<KvType> kv_type_from_name(std::string_view text) {
  return enum_from_name<KvType>(kKvNames, text);
}

std::int64_t KvCache::bytes_per_block(const KvShape& s) {
  return s.n_layers * s.n_kv_heads * (block_bytes(s.keys, s.head_dim) + block_bytes(s.values, s.head_dim));
}

KvCache::KvCache(const KvShape& shape, std::int64_t n_blocks)
    : shape_(shape),
      n_blocks_(n_blocks),
      key_bytes_(block_bytes(shape.keys, shape.head_dim)),
      value_bytes_(block_bytes(shape.values, shape.head_dim)) {
  if ((shape.keys == KvType::q8_0 || shape.values == KvType::q8_0) && shape.head_dim % kQ8Group != 0) {
    throw UsageError("-ctk/-ctv q8_0: expected a head of a multiple of 32 dimensions, found " +
                     std::to_string(shape.head_dim));
  }
  storage_bytes_ = static_cast<std::size_t>(std::max<std::int64_t>(bytes_per_block(shape) * n_blocks, 64));
  storage_ = static_cast<std::byte*>(reserve_pages(storage_bytes_));
  for (BlockId b = static_cast<BlockId>(n_blocks); b-- > 0;) free_.push_back(b);
  users_.resize(n_blocks);
}

KvCache::~KvCache() {
  ::munmap(storage_, storage_bytes_);
}

BlockId KvCache::take() {
  if (free_.empty()) throw MemoryError("KV cache: all " + std::to_string(n_blocks_ * kKvBlock) + " slots are in use");
  const BlockId block = free_.back();
  free_.pop_back();
  users_[block] = 1;
  most_used_ = std::max(most_used_, n_blocks_ - free_blocks());
  return block;
}

void KvCache::release(BlockId block) {
  if (--users_[block] == 0) free_.push_back(block);
}

void KvCache::reserve(Sequence& sequence, std::int64_t first, std::int64_t end) {
  const auto wanted = static_cast<std::size_t>((end + kKvBlock - 1) / kKvBlock);
  const auto kept = sequence.blocks.size();
  while (sequence.blocks.size() < wanted) sequence.blocks.push_back(take());
  for (auto b = static_cast<std::size_t>(first / kKvBlock); b < std::min(kept, wanted); ++b) {
    if (!is_shared(sequence.blocks[b])) continue;
    const BlockId own = take();
    copy_block(sequence.blocks[b], own);
    release(sequence.blocks[b]);
    sequence.blocks[b] = own;
  }
}

std::int64_t KvCache::blocks_to_reserve(const Sequence& s, std::int64_t first, std::int64_t end) const {
  const std::int64_t wanted = (end + kKvBlock - 1) / kKvBlock, held = std::ssize(s.blocks);
  std::int64_t taken = std::max<std::int64_t>(0, wanted - held);
  for (std::int64_t b = first / kKvBlock; b < std::min(held, wanted); ++b) {
    if (is_shared(s.blocks[b])) ++taken;
  }
  return taken;
}

std::int64_t KvCache::blocks_of_its_own(const Sequence& s) const {
  return std::ssize(s.spare) +
         std::count_if(s.blocks.begin(), s.blocks.end(), [&](BlockId b) { return !is_shared(b); });
}

std::int64_t KvCache::blocks_held(std::span<const Sequence* const> sequences) const {
  std::vector<bool> seen(n_blocks_);
  std::int64_t held = 0;
  const auto count = [&](BlockId b) {
    if (!seen[b]) ++held;
    seen[b] = true;
  };
  for (const Sequence* s : sequences) {
    std::for_each(s->blocks.begin(), s->blocks.end(), count);
    std::for_each(s->spare.begin(), s->spare.end(), count);
  }
  return held;
}

void KvCache::truncate(Sequence& sequence, std::int64_t length) {
  const auto kept = static_cast<std::size_t>((length + kKvBlock - 1) / kKvBlock);
  for (; sequence.blocks.size() > kept; sequence.blocks.pop_back()) release(sequence.blocks.back());
  for (; !sequence.spare.empty(); sequence.spare.pop_back()) release(sequence.spare.back());
  sequence.nodes.clear();
  sequence.decided.reset();
  sequence.tip = 0;
  sequence.length = std::min(sequence.length, length);
}

Sequence KvCache::fork(const Sequence& from, std::int64_t length) {
  Sequence s;
  s.length = std::min(length, from.length);
  const auto n = (s.length + kKvBlock - 1) / kKvBlock;
  s.blocks.assign(from.blocks.begin(), from.blocks.begin() + n);
  for (const BlockId b : s.blocks) ++users_[b];
  return s;
}

std::int64_t KvCache::used_bytes() const {
  return most_used_ * bytes_per_block(shape_);
}

std::byte* KvCache::key_block(std::int64_t layer, BlockId block, std::int64_t head) const {
  const std::int64_t index = (layer * n_blocks_ + block) * shape_.n_kv_heads + head;
  return storage_ + index * (key_bytes_ + value_bytes_);
}

std::byte* KvCache::value_block(std::int64_t layer, BlockId block, std::int64_t head) const {
  return key_block(layer, block, head) + key_bytes_;
}

void KvCache::copy_block(BlockId from, BlockId to) {
  const auto bytes = static_cast<std::size_t>(shape_.n_kv_heads * (key_bytes_ + value_bytes_));
  for (std::int64_t layer = 0; layer < shape_.n_layers; ++layer) {
    std::memcpy(key_block(layer, to, 0), key_block(layer, from, 0), bytes);
  }
}

void KvCache::copy(Slot from, Slot to) {
  for (std::int64_t layer = 0; layer < shape_.n_layers; ++layer) {
    for (std::int64_t h = 0; h < shape_.n_kv_heads; ++h) {
      copy_lane(shape_.keys, shape_.head_dim, true, key_block(layer, from.block, h), from.lane,
                key_block(layer, to.block, h), to.lane);
      copy_lane(shape_.values, shape_.head_dim, false, value_block(layer, from.block, h), from.lane,
                value_block(layer, to.block, h), to.lane);
    }
  }
}

bool KvCache::write(std::int64_t layer, Slot slot, const float* keys, const float* values) {
  const std::int64_t lane = slot.lane, dim = shape_.head_dim;
  bool fits = true;
  for (std::int64_t h = 0; h < shape_.n_kv_heads; ++h, keys += dim, values += dim) {
    std::byte* k = key_block(layer, slot.block, h);
    std::byte* v = value_block(layer, slot.block, h);
    if (shape_.keys != KvType::q8_0) {
      fits &= store(shape_.keys, keys, dim, k, lane, kKvBlock);
    } else {  // integers [dim][32], scales [dim/32][32]
      auto* scales = reinterpret_cast<f16_t*>(k + dim * kKvBlock);
      for (std::int64_t d = 0; d < dim; d += kQ8Group) {
        fits &= store_q8(keys + d, reinterpret_cast<std::int8_t*>(k) + d * kKvBlock + lane, kKvBlock,
                         scales + d / kQ8Group * kKvBlock + lane);
      }
    }
    if (shape_.values != KvType::q8_0) {
      fits &= store(shape_.values, values, dim, v, lane * dim, 1);
    } else {  // integers [32][dim], scales [32][dim/32]
      auto* scales = reinterpret_cast<f16_t*>(v + dim * kKvBlock) + lane * (dim / kQ8Group);
      for (std::int64_t d = 0; d < dim; d += kQ8Group) {
        fits &= store_q8(values + d, reinterpret_cast<std::int8_t*>(v) + lane * dim + d, 1, scales + d / kQ8Group);
      }
    }
  }
  return fits;
}

void KvCache::prefetch(std::int64_t layer, BlockId block, std::int64_t head) const {
  const std::byte* from = key_block(layer, block, head);  // values follow the keys
  for (std::int64_t i = 0; i < key_bytes_ + value_bytes_; i += kCacheLine) __builtin_prefetch(from + i);
}

const float* KvCache::keys(const KernelTable& k, std::int64_t layer, BlockId block, std::int64_t head,
                           float* scratch) const {
  const std::byte* from = key_block(layer, block, head);
  const std::int64_t dim = shape_.head_dim;
  if (shape_.keys == KvType::f32) return reinterpret_cast<const float*>(from);
  if (shape_.keys == KvType::f16) {
    k.widen(Precision::f16, from, dim * kKvBlock, scratch);
    return scratch;
  }
  const auto* q = reinterpret_cast<const std::int8_t*>(from);
  const auto* scales = reinterpret_cast<const f16_t*>(from + dim * kKvBlock);
  for (std::int64_t d = 0; d < dim; ++d) {
    for (std::int64_t lane = 0; lane < kKvBlock; ++lane) {
      const float scale = f16_to_f32(scales[d / kQ8Group * kKvBlock + lane]);
      scratch[d * kKvBlock + lane] = static_cast<float>(q[d * kKvBlock + lane]) * scale;
    }
  }
  return scratch;
}

const float* KvCache::values(const KernelTable& k, std::int64_t layer, BlockId block, std::int64_t head,
                             float* scratch) const {
  const std::byte* from = value_block(layer, block, head);
  const std::int64_t dim = shape_.head_dim;
  if (shape_.values == KvType::f32) return reinterpret_cast<const float*>(from);
  if (shape_.values == KvType::f16) {
    k.widen(Precision::f16, from, dim * kKvBlock, scratch);
    return scratch;
  }
  const auto* q = reinterpret_cast<const std::int8_t*>(from);
  const auto* scales = reinterpret_cast<const f16_t*>(from + dim * kKvBlock);
  for (std::int64_t i = 0; i < dim * kKvBlock; ++i) {
    scratch[i] = static_cast<float>(q[i]) * f16_to_f32(scales[i / kQ8Group]);
  }
  return scratch;
}

void KvCache::patch_keys(std::int64_t layer, Slot slot, std::int64_t head, std::int64_t lane, float* block) const {
  const std::byte* from = key_block(layer, slot.block, head);
  for (std::int64_t d = 0; d < shape_.head_dim; ++d) {
    block[d * kKvBlock + lane] = element(shape_.keys, shape_.head_dim, true, from, slot.lane, d);
  }
}

void KvCache::patch_values(std::int64_t layer, Slot slot, std::int64_t head, std::int64_t lane, float* block) const {
  const std::byte* from = value_block(layer, slot.block, head);
  for (std::int64_t d = 0; d < shape_.head_dim; ++d) {
    block[lane * shape_.head_dim + d] = element(shape_.values, shape_.head_dim, false, from, slot.lane, d);
  }
}

}  // namespace jupiter
