// What boards of a tensor group gather has the bits that one board would have computed, with every table of kernels.
#include "kernels/tensor_group.hpp"

#include <gtest/gtest.h>

#include <map>

#include "io/error.hpp"
#include "kernel_testing.hpp"
#include "kernels/linear.hpp"

namespace jupiter {
namespace {

using testing::Random;

// The pieces of all boards, one gather after the other: the first round keeps what each board sends, the second one
// hands it out.
class Pieces : public GroupLink {
 public:
  void exchange(std::vector<std::byte> mine,
                const std::function<void(int, std::span<const std::byte>)>& take) override {
    if (collecting) sent[board] = std::move(mine);
    if (collecting) return;
    for (const auto& [other, piece] : sent) {
      if (other != board) take(other, piece);
    }
  }
  bool collecting = true;
  int board = 0;
  std::map<int, std::vector<std::byte>> sent;
};

const std::vector<IndexRange> kColumns = {{0, 96}, {96, 96}, {96, 160}, {160, 256}};  // one board has none

ModelConfig config() {
  ModelConfig c;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 64;
  c.dim = 256;
  c.hidden_dim = 256;
  c.vocab_size = 64;
  return c;
}

// Calls gather(group, board) for every board, first to collect the pieces, then to take them.
template <typename Gather>
void for_every_board(const Gather& gather_of_board) {
  Pieces pieces;
  for (const bool collecting : {true, false}) {
    pieces.collecting = collecting;
    for (int b = 0; b < static_cast<int>(kColumns.size()); ++b) {
      pieces.board = b;
      TensorGroup group(config(), std::vector<TensorSlice>(kColumns.size(), whole_slice(config())), b, pieces);
      gather_of_board(group, b, !collecting);
    }
  }
}

TEST(TensorGroup, QuantisedRowsAreThoseOfOneBoard) {
  ThreadPool pool({.threads = 1});
  for (const KernelTable* table : available_kernels()) {
    const Runtime rt{*table, pool};
    for (const std::int64_t rows : {1, 5, 16, 17, 40}) {
      Random random(static_cast<std::uint64_t>(rows));
      testing::Floats values(random, rows * 256, 0, -3.0f, 3.0f);
      const MatrixView<float> x(values.data(), rows, 256);
      LinearInput whole(rows, 256);
      whole.set(rt, x, true);
      const QuantizedRows& want = whole.integers();
      std::vector<LinearInput> boards;
      for (std::size_t b = 0; b < kColumns.size(); ++b) boards.emplace_back(rows, 256);
      for_every_board([&](const TensorGroup& group, int b, bool done) {
        boards[b].gather(rt, group, kColumns, x, true);
        if (!done) return;
        const QuantizedRows& got = boards[b].integers();
        const auto n = static_cast<std::size_t>(rows * want.groups());
        EXPECT_EQ(std::memcmp(got.values, want.values, n * kGroupCols), 0) << table->name << " " << rows;
        EXPECT_EQ(std::memcmp(got.scales, want.scales, n * sizeof(float)), 0);
        EXPECT_EQ(std::memcmp(got.offsets, want.offsets, n * sizeof(std::int32_t)), 0);
        EXPECT_EQ(std::memcmp(got.half_offsets, want.half_offsets, 2 * n * sizeof(std::int32_t)), 0);
        EXPECT_EQ(std::memcmp(got.scaled_sums, want.scaled_sums, n * sizeof(float)), 0);
      });
    }
  }
}

TEST(TensorGroup, FloatsAndRoundedValuesArrive) {
  for (const Precision precision : {Precision::f32, Precision::f16, Precision::bf16}) {
    Random random(7);
    testing::Floats values(random, 3 * 256, 0, -3.0f, 3.0f);
    std::vector<std::uint16_t> bits(256);
    for (int i = 0; precision != Precision::f32 && i < 3; ++i) {
      ASSERT_TRUE(kernels().narrow(precision, values.data() + i * 256, 256, bits.data()));
      kernels().widen(precision, bits.data(), 256, values.data() + i * 256);
    }
    std::vector<std::vector<float>> boards(kColumns.size(), std::vector<float>(3 * 256));
    for (std::size_t b = 0; b < boards.size(); ++b) {
      for (int i = 0; i < 3; ++i) {
        std::copy_n(values.data() + i * 256 + kColumns[b].first, kColumns[b].size(),
                    boards[b].begin() + i * 256 + kColumns[b].first);
      }
    }
    for_every_board([&](const TensorGroup& group, int b, bool done) {
      gather(kernels(), group, kColumns, precision, MatrixView<float>(boards[b].data(), 3, 256));
      if (done) {
        EXPECT_EQ(std::memcmp(boards[b].data(), values.data(), 3 * 256 * sizeof(float)), 0);
      }
    });
  }
}

TEST(TensorGroup, PiecesOfAnotherSizeAreRefused) {
  std::vector<float> x(3 * 256);
  Pieces pieces;
  pieces.sent[0] = std::vector<std::byte>(12);
  pieces.collecting = false;
  pieces.board = 1;
  const TensorGroup group(config(), std::vector<TensorSlice>(2, whole_slice(config())), 1, pieces);
  const std::vector<IndexRange> halves = {{0, 128}, {128, 256}};
  EXPECT_THROW(gather(group, halves, MatrixView<float>(x.data(), 3, 256)), PeerError);
}

}  // namespace
}  // namespace jupiter
