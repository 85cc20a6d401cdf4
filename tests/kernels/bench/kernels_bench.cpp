// Micro-benchmarks: rows x format x shape of the quantised matmul as multiply-adds per second and as a fraction of the
// measured peak, bytes of weights per second against the measured read bandwidth, attention, and the small kernels.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

#include "kernel_testing.hpp"
#include "kernels/kernel_table.hpp"
#include "kernels/peak.hpp"
#include "kernels/thread_pool.hpp"
#include "peak.hpp"

namespace {

using namespace jupiter;
using jupiter::testing::Floats;
using jupiter::testing::Random;

double g_integer_peak = 0;
double g_float_peak = 0;

// Random bytes as weights of any format: speed does not depend on values. `copies` matrices follow each other, so that
// a large count streams from memory and one stays in the cache.
struct Bank {
  std::vector<PackedMatrix> matrices;
  Buffer<std::byte> bytes;

  Bank(Format format, std::int64_t outputs, std::int64_t cols, std::int64_t copies) {
    PackedMatrix one = {format, outputs, cols, nullptr};
    const std::size_t size = one.bytes();
    bytes = Buffer<std::byte>(size * static_cast<std::size_t>(copies));
    Random random(1);
    const jupiter::testing::Weights pattern(format, outputs, cols, 1);
    for (std::int64_t i = 0; i < copies; ++i) {
      one.data = bytes.data() + size * static_cast<std::size_t>(i);
      std::memcpy(const_cast<std::byte*>(one.data), pattern.matrix().data, size);
      matrices.push_back(one);
    }
  }
};

// Arguments: format, rows, outputs, cols, copies.
void matmul(benchmark::State& state) {
  const auto format = static_cast<Format>(state.range(0));
  const std::int64_t rows = state.range(1), outputs = state.range(2), cols = state.range(3);
  const Bank bank(format, outputs, cols, state.range(4));
  Random random(2);
  const Floats x(random, rows * cols, 0, -1, 1);
  Floats out(rows * outputs, 0);
  QuantizedBuffer buffer(rows, cols);
  const QuantizedRows q = buffer.view(rows, cols);
  const KernelTable& table = kernels();
  table.quantize_rows({x.data(), rows, cols}, q);
  for (auto _ : state) {
    for (const PackedMatrix& w : bank.matrices) {
      table.matmul_quantized(w, {0, w.panels()}, q, {out.data(), rows, outputs});
    }
    benchmark::ClobberMemory();
  }
  const double macs = static_cast<double>(rows * outputs * cols) * static_cast<double>(bank.matrices.size());
  using benchmark::Counter;
  state.counters["GMAC/s"] = Counter(macs * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] = Counter(static_cast<double>(bank.bytes.size()) * 1e-9, Counter::kIsIterationInvariantRate);
  if (g_integer_peak > 0) state.counters["peak"] = Counter(macs / g_integer_peak, Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(name(format)));
}

void attention(benchmark::State& state) {
  const std::int64_t rows = state.range(0), head_dim = state.range(1), blocks = 64;
  Random random(3);
  const Floats keys(random, blocks * kKvBlock * head_dim, 0, -1, 1),
      values(random, blocks * kKvBlock * head_dim, 0, -1, 1);
  const Floats queries(random, rows * head_dim, 0, -1, 1);
  Floats max(rows, 0), sums(rows * kSumLanes, 0), outputs(rows * head_dim, 0);
  const std::vector<std::int32_t> first(static_cast<std::size_t>(rows), 0),
      end(static_cast<std::size_t>(rows), kKvBlock);
  const KernelTable& table = kernels();
  for (auto _ : state) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      table.attend_block({keys.data() + b * kKvBlock * head_dim, values.data() + b * kKvBlock * head_dim, head_dim,
                          rows, queries.data(), first.data(), end.data(), max.data(), sums.data(), outputs.data()});
    }
    benchmark::ClobberMemory();
  }
  const double macs = static_cast<double>(rows * head_dim * 2 * kKvBlock * blocks);
  using benchmark::Counter;
  state.counters["GFMA/s"] = Counter(macs * 1e-9, Counter::kIsIterationInvariantRate);
  if (g_float_peak > 0) state.counters["peak"] = Counter(macs / g_float_peak, Counter::kIsIterationInvariantRate);
}

void quantize(benchmark::State& state) {
  const std::int64_t rows = state.range(0), cols = state.range(1);
  Random random(4);
  const Floats x(random, rows * cols, 0, -1, 1);
  QuantizedBuffer buffer(rows, cols);
  for (auto _ : state) kernels().quantize_rows({x.data(), rows, cols}, buffer.view(rows, cols));
  state.SetItemsProcessed(state.iterations() * rows * cols);
}

void rms_norm(benchmark::State& state) {
  Random random(5);
  const std::int64_t n = state.range(0);
  const Floats x(random, n, 0, -1, 1), weight(random, n, 0, -1, 1);
  Floats out(n, 0);
  for (auto _ : state) kernels().rms_norm(x.data(), weight.data(), n, 1e-5f, out.data());
  state.SetItemsProcessed(state.iterations() * n);
}

void swiglu(benchmark::State& state) {
  Random random(6);
  const std::int64_t n = state.range(0);
  const Floats gate(random, n, 0, -4, 4), up(random, n, 0, -1, 1);
  Floats out(n, 0);
  for (auto _ : state) kernels().swiglu(gate.data(), up.data(), n, out.data());
  state.SetItemsProcessed(state.iterations() * n);
}

void matmul_float(benchmark::State& state) {
  const auto format = static_cast<Format>(state.range(0));
  const std::int64_t rows = state.range(1), outputs = 576, cols = 576;
  const Bank bank(format, outputs, cols, 1);
  Random random(7);
  const Floats x(random, rows * cols, 0, -1, 1);
  Floats out(rows * outputs, 0);
  const PackedMatrix& w = bank.matrices[0];
  for (auto _ : state) {
    kernels().matmul_float(w, {0, w.panels()}, {x.data(), rows, cols}, {out.data(), rows, outputs});
  }
  const double macs = static_cast<double>(rows * outputs * cols);
  using benchmark::Counter;
  state.counters["GFMA/s"] = Counter(macs * 1e-9, Counter::kIsIterationInvariantRate);
  if (g_float_peak > 0) state.counters["peak"] = Counter(macs / g_float_peak, Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(name(format)));
}

// One empty parallel region: what waking and joining costs.
void parallel_region(benchmark::State& state) {
  ThreadPool pool({.threads = static_cast<int>(state.range(0))});
  const std::function<void(int)> nothing = [](int) {};
  for (auto _ : state) pool.run(nothing);
}

void add_matmuls() {
  for (const Format format : jupiter::testing::kQuantised) {
    const auto f = static_cast<std::int64_t>(format);
    for (const std::int64_t rows : {1, 2, 4, 8, 12, 16, 32, 128, 512}) {
      benchmark::RegisterBenchmark("matmul/cached", matmul)->Args({f, rows, 512, 2048, 1});
    }
  }
  for (const Format format : {Format::q4, Format::q4m, Format::q4k, Format::q8}) {
    const auto f = static_cast<std::int64_t>(format);
    for (const std::int64_t rows : {1, 2, 4, 8, 12, 16, 24, 32, 128, 512}) {
      // 1.1B shape: far more than the caches hold
      benchmark::RegisterBenchmark("matmul/memory", matmul)->Args({f, rows, 5632, 2048, 24})->MinTime(1.0);
    }
  }
  benchmark::RegisterBenchmark("matmul/memory", matmul)
      ->Args({static_cast<std::int64_t>(Format::q4), 512, 2048, 5632, 8});
  for (const std::int64_t rows : {1, 512}) {
    const auto f = static_cast<std::int64_t>(Format::q4m);
    benchmark::RegisterBenchmark("matmul/smollm2", matmul)->Args({f, rows, 1536, 576, 1});
    benchmark::RegisterBenchmark("matmul/smollm2", matmul)->Args({f, rows, 576, 1536, 1});
    benchmark::RegisterBenchmark("matmul/smollm2", matmul)->Args({f, rows, 192, 576, 1});
  }
}

void add_others() {
  for (const std::int64_t head_dim : {64, 128, 80}) {
    for (const std::int64_t rows : {1, 3, 4, 8, 96}) {
      benchmark::RegisterBenchmark("attention", attention)->Args({rows, head_dim});
    }
  }
  for (const std::int64_t rows : {1, 16}) benchmark::RegisterBenchmark("quantize", quantize)->Args({rows, 2048});
  benchmark::RegisterBenchmark("rms_norm", rms_norm)->Arg(576)->Arg(2048);
  benchmark::RegisterBenchmark("swiglu", swiglu)->Arg(1536)->Arg(5632);
  for (const Format format : jupiter::testing::kFloats) {
    for (const std::int64_t rows : {1, 16}) {
      benchmark::RegisterBenchmark("matmul_float", matmul_float)->Args({static_cast<std::int64_t>(format), rows});
    }
  }
  benchmark::RegisterBenchmark("parallel_region", parallel_region)->Arg(1)->Arg(2)->UseRealTime();
}

}  // namespace

int main(int argc, char** argv) {
  ThreadPool one_core({.threads = 1});
  g_integer_peak = multiply_peak(kernels(), one_core);
  g_float_peak = jupiter::testing::float_peak();
  std::printf("kernels %s, int8 peak %.0f GMAC/s, f32 peak %.0f GFMA/s, read %.1f GB/s (one core)\n",
              std::string(kernels().name).c_str(), g_integer_peak * 1e-9, g_float_peak * 1e-9,
              read_peak(one_core, std::uint64_t{1} << 30) * 1e-9);
  add_matmuls();
  add_others();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
