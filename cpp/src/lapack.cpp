#include "immucond/lapack.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <limits>
#include <type_traits>

#include "immucond/blas_threads.hpp"

namespace immucond::lapack {
namespace {

constexpr std::size_t kCount = static_cast<std::size_t>(Routine::count);

constexpr std::array<const char*, kCount> kNames{
#define IMMUCOND_NAME(name, signature) #name,
    IMMUCOND_ROUTINES(IMMUCOND_NAME)
#undef IMMUCOND_NAME
};
constexpr std::array<const char*, kCount> kSignatures{
#define IMMUCOND_SIGNATURE(name, signature) signature,
    IMMUCOND_ROUTINES(IMMUCOND_SIGNATURE)
#undef IMMUCOND_SIGNATURE
};

struct Table {
  std::array<void*, kCount> address{};
  int integer_bits = 0;
};

Table table;
std::array<std::atomic<std::uint64_t>, kCount> calls{};

struct Parsed {
  std::string letters;   // as in IMMUCOND_ROUTINES, "?" where a type is not known
  int integer_bits = 0;  // 0: no integer argument, -1: mixed widths
};

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

/// "void (char *, int *, __pyx_t_..._d *)" -> "cid", 32.
Parsed parse_signature(const std::string& signature) {
  const std::string head = "void (";
  Parsed parsed;
  if (signature.compare(0, head.size(), head) != 0 || signature.back() != ')') {
    parsed.letters = "?";
    return parsed;
  }
  const std::string list = signature.substr(head.size(), signature.size() - head.size() - 1);
  std::size_t begin = 0;
  while (begin <= list.size()) {
    const std::size_t comma = std::min(list.find(',', begin), list.size());
    std::string type = list.substr(begin, comma - begin);
    type.erase(0, type.find_first_not_of(' '));
    char letter = '?';
    int bits = 0;
    if (ends_with(type, " *")) {
      type.erase(type.size() - 2);
      if (type == "char") {
        letter = 'c';
      } else if (type == "double" || ends_with(type, "_d")) {
        letter = 'd';
      } else if (type == "int" || ends_with(type, "int32_t")) {
        letter = 'i';
        bits = 32;
      } else if (type == "long" || type == "long long" || ends_with(type, "int64_t")) {
        letter = 'i';
        bits = type == "long" ? static_cast<int>(8 * sizeof(long)) : 64;
      }
    }
    parsed.letters += letter;
    if (bits != 0)
      parsed.integer_bits = parsed.integer_bits == 0 || parsed.integer_bits == bits ? bits : -1;
    begin = comma + 1;
  }
  return parsed;
}

std::string expected_text(const char* letters) {
  std::string text = "void (";
  for (const char* p = letters; *p != '\0'; ++p) {
    if (p != letters) text += ", ";
    text += *p == 'c' ? "char *" : *p == 'i' ? "int *" : "double *";
  }
  return text + ")";
}

// ---- calling convention: every argument by address, integers in the table's width ----

/// Integer output: storage that either width of BLAS integer fits into.
class Integers {
 public:
  explicit Integers(Index count = 1)
      : storage_(static_cast<std::size_t>(count) * sizeof(std::int64_t)) {}
  template <class Int>
  Int* as() {
    return reinterpret_cast<Int*>(storage_.data());
  }
  Index value(Index at = 0) {
    return integer_bits() == 32 ? static_cast<Index>(as<std::int32_t>()[at])
                                : static_cast<Index>(as<std::int64_t>()[at]);
  }

 private:
  std::vector<std::byte> storage_;  // bytes may hold integers of either width
};

template <class Int, class T>
struct Argument;

template <class Int>
struct Argument<Int, char> {
  char value;
  explicit Argument(char v) : value(v) {}
  char* pointer() { return &value; }
};
template <class Int>
struct Argument<Int, double> {
  double value;
  explicit Argument(double v) : value(v) {}
  double* pointer() { return &value; }
};
template <class Int>
struct Argument<Int, Index> {
  Int value;
  explicit Argument(Index v) : value(static_cast<Int>(v)) {
    if (v > static_cast<Index>(std::numeric_limits<Int>::max()))
      throw std::length_error("a size of " + std::to_string(v) +
                              " does not fit the 32-bit integers of this BLAS");
  }
  Int* pointer() { return &value; }
};
template <class Int>
struct Argument<Int, double*> {
  double* value;
  explicit Argument(double* v) : value(v) {}
  double* pointer() { return value; }
};
template <class Int>
struct Argument<Int, const double*> {
  const double* value;
  explicit Argument(const double* v) : value(v) {}
  // BLAS declares its inputs without const and does not write to them.
  double* pointer() { return const_cast<double*>(value); }
};
template <class Int>
struct Argument<Int, Integers*> {
  Integers* value;
  explicit Argument(Integers* v) : value(v) {}
  Int* pointer() { return value->as<Int>(); }
};

template <class Int, class... Args>
void call_with(void* address, Args... args) {
  using Function = void (*)(decltype(std::declval<Argument<Int, Args>>().pointer())...);
  reinterpret_cast<Function>(address)(Argument<Int, Args>(args).pointer()...);
}

template <Routine routine, class... Args>
void call(Args... args) {
  constexpr auto at = static_cast<std::size_t>(routine);
  calls[at].fetch_add(1, std::memory_order_relaxed);
  const blas::SingleCall single;
  if (table.integer_bits == 32)
    call_with<std::int32_t>(table.address[at], args...);
  else
    call_with<std::int64_t>(table.address[at], args...);
}

template <Routine routine>
void check(Integers& info) {
  if (info.value() != 0)
    throw LapackError(std::string("LAPACK ") + kNames[static_cast<std::size_t>(routine)] +
                      " failed with info = " + std::to_string(info.value()));
}

// Block sizes of LAPACK's unblocked-to-blocked switch are at most 64; more workspace is not used.
constexpr Index kBlock = 64;

/// LAPACK takes its block size from the workspace; for reductions, half of which is products with a
/// matrix that fits in cache, a narrow panel is up to 15% faster.
Index reduction_block(Index n) { return n <= 600 ? 8 : kBlock; }

/// Workspace of dormtr and dormbr. For a few columns the unblocked code is faster, since the
/// blocked one spends its time on block reflectors; LAPACK takes it where the workspace is short.
Index apply_workspace(Index columns) {
  return columns <= 8 ? columns : columns * kBlock + (kBlock + 1) * kBlock;
}

std::vector<double> workspace(Index n) {
  return std::vector<double>(static_cast<std::size_t>(std::max<Index>(1, n)));
}

}  // namespace

void bind(const std::vector<Capsule>& capsules) {
  Table found;
  for (std::size_t r = 0; r < kCount; ++r) {
    const auto capsule = std::find_if(capsules.begin(), capsules.end(),
                                      [&](const Capsule& c) { return c.name == kNames[r]; });
    if (capsule == capsules.end() || capsule->address == nullptr)
      throw MissingRoutine(std::string("SciPy's BLAS/LAPACK capsules do not hold ") + kNames[r] +
                           ", which immucond needs; SciPy >= 1.11 has it");
    const Parsed parsed = parse_signature(capsule->signature);
    const int bits = parsed.integer_bits;
    const bool same_width = found.integer_bits == 0 || found.integer_bits == bits;
    if (parsed.letters != kSignatures[r] || (bits != 32 && bits != 64) || !same_width)
      throw MissingRoutine(std::string("SciPy's capsule of ") + kNames[r] + " has the signature '" +
                           capsule->signature + "', and immucond needs '" +
                           expected_text(kSignatures[r]) +
                           "' (or 64-bit integers in place of int, in every routine alike)");
    found.integer_bits = bits;
    found.address[r] = capsule->address;
  }
  blas::find_thread_control(found.address[static_cast<std::size_t>(Routine::dgemm)]);
  table = found;
}

int integer_bits() { return table.integer_bits; }

std::vector<std::pair<std::string, std::uint64_t>> call_counts() {
  std::vector<std::pair<std::string, std::uint64_t>> counts;
  for (std::size_t r = 0; r < kCount; ++r) counts.emplace_back(kNames[r], calls[r].load());
  return counts;
}

void gemm(char transa, char transb, Index m, Index n, Index k, double alpha, const double* a,
          Index lda, const double* b, Index ldb, double beta, double* c, Index ldc) {
  call<Routine::dgemm>(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void syrk(char uplo, char trans, Index n, Index k, double alpha, const double* a, Index lda,
          double beta, double* c, Index ldc) {
  call<Routine::dsyrk>(uplo, trans, n, k, alpha, a, lda, beta, c, ldc);
}

void gemv(char trans, Index m, Index n, double alpha, const double* a, Index lda, const double* x,
          double beta, double* y) {
  call<Routine::dgemv>(trans, m, n, alpha, a, lda, x, Index{1}, beta, y, Index{1});
}

void symv(char uplo, Index n, const double* a, Index lda, const double* x, double* y) {
  call<Routine::dsymv>(uplo, n, 1.0, a, lda, x, Index{1}, 0.0, y, Index{1});
}

void trmv(char trans, Index n, const double* r, Index ldr, double* x) {
  call<Routine::dtrmv>('U', trans, 'N', n, r, ldr, x, Index{1});
}

void trsm(char side, char trans, Index m, Index n, const double* r, Index ldr, double* b,
          Index ldb) {
  call<Routine::dtrsm>(side, 'U', trans, 'N', m, n, 1.0, r, ldr, b, ldb);
}

bool potrf(Index n, double* a, Index lda) {
  Integers info;
  call<Routine::dpotrf>('U', n, a, lda, &info);
  if (info.value() < 0) check<Routine::dpotrf>(info);
  return info.value() == 0;
}

Index pstrf(Index n, double* a, Index lda, double tolerance, std::vector<Index>& pivots) {
  Integers piv(n), rank, info;
  auto work = workspace(2 * n);
  call<Routine::dpstrf>('U', n, a, lda, &piv, &rank, tolerance, work.data(), &info);
  if (info.value() < 0) check<Routine::dpstrf>(info);
  pivots.resize(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) pivots[static_cast<std::size_t>(i)] = piv.value(i) - 1;
  return rank.value();
}

void trsv(char trans, Index n, const double* r, Index ldr, double* x) {
  call<Routine::dtrsv>('U', trans, 'N', n, r, ldr, x, Index{1});
}

bool trtri(Index n, double* r, Index ldr) {
  Integers info;
  call<Routine::dtrtri>('U', 'N', n, r, ldr, &info);
  if (info.value() < 0) check<Routine::dtrtri>(info);
  return info.value() == 0;
}

void lauum(Index n, double* r, Index ldr) {
  Integers info;
  call<Routine::dlauum>('U', n, r, ldr, &info);
  check<Routine::dlauum>(info);
}

void sytrd(Index n, double* a, Index lda, double* d, double* e, double* tau) {
  Integers info;
  const Index size = n * reduction_block(n);
  auto work = workspace(size);
  call<Routine::dsytrd>('L', n, a, lda, d, e, tau, work.data(), size, &info);
  check<Routine::dsytrd>(info);
}

void ormtr(Index n, Index columns, double* a, Index lda, const double* tau, double* c, Index ldc) {
  Integers info;
  const Index size = apply_workspace(columns);
  auto work = workspace(size);
  call<Routine::dormtr>('L', 'L', 'N', n, columns, a, lda, tau, c, ldc, work.data(), size, &info);
  check<Routine::dormtr>(info);
}

void gebrd(Index m, Index n, double* a, Index lda, double* d, double* e, double* tauq,
           double* taup) {
  Integers info;
  const Index size = (m + n) * reduction_block(n);
  auto work = workspace(size);
  call<Routine::dgebrd>(m, n, a, lda, d, e, tauq, taup, work.data(), size, &info);
  check<Routine::dgebrd>(info);
}

namespace {
void ormbr(char which, Index m, Index k, Index columns, double* a, Index lda, const double* tau,
           double* c, Index ldc) {
  Integers info;
  const Index size = apply_workspace(columns);
  auto work = workspace(size);
  call<Routine::dormbr>(which, 'L', 'N', m, columns, k, a, lda, tau, c, ldc, work.data(), size,
                        &info);
  check<Routine::dormbr>(info);
}
}  // namespace

void ormbr_q(Index m, Index n, Index columns, double* a, Index lda, const double* tauq, double* c,
             Index ldc) {
  ormbr('Q', m, n, columns, a, lda, tauq, c, ldc);
}

void ormbr_p(Index n, Index columns, double* a, Index lda, const double* taup, double* c,
             Index ldc) {
  ormbr('P', n, n, columns, a, lda, taup, c, ldc);
}

bool stein(Index n, const double* d, const double* e, Index count, const double* w, double* z) {
  Integers info, block(n), split(n), work(n), failed(count);
  // One block, from row 1 to row n: the caller counted eigenvalues over the whole matrix.
  for (Index i = 0; i < n; ++i) {
    if (integer_bits() == 32) {
      block.as<std::int32_t>()[i] = 1;
      split.as<std::int32_t>()[i] = static_cast<std::int32_t>(n);
    } else {
      block.as<std::int64_t>()[i] = 1;
      split.as<std::int64_t>()[i] = n;
    }
  }
  auto scratch = workspace(5 * n);
  call<Routine::dstein>(n, d, e, count, w, &block, &split, z, n, scratch.data(), &work, &failed,
                        &info);
  if (info.value() < 0) check<Routine::dstein>(info);
  return info.value() == 0;
}

void steqr(Index n, double* d, double* e, double* z) {
  Integers info;
  auto work = workspace(2 * n);
  call<Routine::dsteqr>('I', n, d, e, z, n, work.data(), &info);
  check<Routine::dsteqr>(info);
}

void geqrf(Index m, Index n, double* a, Index lda, double* tau) {
  Integers info;
  auto work = workspace(n * kBlock);
  call<Routine::dgeqrf>(m, n, a, lda, tau, work.data(), n * kBlock, &info);
  check<Routine::dgeqrf>(info);
}

void ormqr(Index m, Index k, Index columns, double* a, Index lda, const double* tau, double* c,
           Index ldc) {
  Integers info;
  const Index size = apply_workspace(columns);
  auto work = workspace(size);
  call<Routine::dormqr>('L', 'N', m, columns, k, a, lda, tau, c, ldc, work.data(), size, &info);
  check<Routine::dormqr>(info);
}

// Narrow panels: half of a panel's work is done by products with vectors.
Index triangle_block(Index n) { return std::min<Index>(n, n <= 64 ? 8 : 32); }

void tpqrt(Index n, double* a, double* b, double* t) {
  Integers info;
  const Index block = triangle_block(n);
  auto work = workspace(block * n);
  call<Routine::dtpqrt>(n, n, n, block, a, n, b, n, t, block, work.data(), &info);
  check<Routine::dtpqrt>(info);
}

void tpmqrt(Index n, const double* b, const double* t, double* x, double* y) {
  Integers info;
  const Index block = triangle_block(n);
  auto work = workspace(block);
  call<Routine::dtpmqrt>('L', 'N', n, Index{1}, n, n, block, b, n, t, block, x, n, y, n,
                         work.data(), &info);
  check<Routine::dtpmqrt>(info);
}

void gejsv(Index m, Index n, double* a, Index lda, double* sigma, double* u, double* v) {
  Integers info, integers(m + 3 * n);
  const Index size = std::max(2 * m + n, 2 * n * n + 6 * n) + n * kBlock + 7;
  auto work = workspace(size);
  call<Routine::dgejsv>('G', 'U', 'V', 'N', 'N', 'N', m, n, a, lda, sigma, u, m, v, n, work.data(),
                        size, &integers, &info);
  check<Routine::dgejsv>(info);
  const double scale = work[0] / work[1];
  for (Index i = 0; i < n; ++i) sigma[i] *= scale;
}

}  // namespace immucond::lapack
