// Which tables this machine can run, and which one is used.
#include "kernels/kernel_table.hpp"

#include <cstdlib>
#include <string>

#include "io/error.hpp"
#include "kernels/simd_tables.hpp"

namespace jupiter {

const std::vector<const KernelTable*>& available_kernels() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found = simd_tables();
    found.push_back(&reference_kernels());
    return found;
  }();
  return tables;
}

const KernelTable& kernels() {
  const auto& tables = available_kernels();
  const char* wanted = std::getenv("JUPITER_KERNELS");
  if (wanted == nullptr || *wanted == '\0') return *tables.front();
  std::string names;
  for (const KernelTable* table : tables) {
    if (table->name == wanted) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  throw UsageError("JUPITER_KERNELS: expected one of " + names + " (what this machine can run), found " +
                   std::string(wanted));
}

}  // namespace jupiter
