// Threefry-2x32, the generator of JAX's random bits: Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy
// as 1, 2, 3, doi:10.1145/2063384.2063405. It is here because XLA takes long to compile it, once for every array.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
constexpr size_t kBlock = 256;  // the compiler makes vectors of the loops over a block, which stays in registers and L1

struct Words {
  const uint32_t *key0, *key1, *in0, *in1;
  uint32_t *out0, *out1;
};

void encrypt_block(const Words& w, size_t begin, size_t size) {
  uint32_t keys[3][kBlock], x[kBlock], y[kBlock];
  for (size_t i = 0; i < size; i++) {
    const uint32_t key0 = w.key0[begin + i], key1 = w.key1[begin + i];
    keys[0][i] = key0, keys[1][i] = key1, keys[2][i] = key0 ^ key1 ^ 0x1BD11BDA;
    x[i] = w.in0[begin + i] + key0, y[i] = w.in1[begin + i] + key1;
  }
  for (int group = 0; group < 5; group++) {
    for (const int left : kRotations[group % 2]) {
      for (size_t i = 0; i < size; i++) {
        x[i] += y[i];
        y[i] = (y[i] << left | y[i] >> (32 - left)) ^ x[i];
      }
    }
    const uint32_t *first = keys[(group + 1) % 3], *second = keys[(group + 2) % 3];
    for (size_t i = 0; i < size; i++) x[i] += first[i], y[i] += second[i] + group + 1;
  }
  std::copy_n(x, size, w.out0 + begin);
  std::copy_n(y, size, w.out1 + begin);
}

void encrypt(const Words& w, size_t count) {
  for (size_t i = 0; i < count; i += kBlock) encrypt_block(w, i, std::min(kBlock, count - i));
}

// Encrypts the numbers from 0 to `size` with each of the keys, which have two words each.
void encrypt_numbers(const uint32_t* keys, size_t count, size_t size, uint32_t* out0, uint32_t* out1) {
  uint32_t key0[kBlock], key1[kBlock], in0[kBlock], in1[kBlock];
  for (size_t key = 0; key < count; key++) {
    std::fill_n(key0, kBlock, keys[2 * key]);
    std::fill_n(key1, kBlock, keys[2 * key + 1]);
    for (size_t begin = 0; begin < size; begin += kBlock) {
      const size_t block = std::min(kBlock, size - begin), at = key * size + begin;
      for (size_t i = 0; i < block; i++) in0[i] = (uint32_t)((uint64_t)(begin + i) >> 32), in1[i] = (uint32_t)(begin + i);
      encrypt_block({key0, key1, in0, in1, out0 + at, out1 + at}, 0, block);
    }
  }
}

using In = ffi::Buffer<ffi::U32>;
using Out = ffi::ResultBuffer<ffi::U32>;

ffi::Error threefry(In key0, In key1, In in0, In in1, Out out0, Out out1) {
  encrypt({key0.typed_data(), key1.typed_data(), in0.typed_data(), in1.typed_data(), out0->typed_data(),
           out1->typed_data()},
          in0.element_count());
  return ffi::Error::Success();
}

ffi::Error random_words(In keys, Out out0, Out out1) {
  const size_t count = keys.element_count() / 2;
  encrypt_numbers(keys.typed_data(), count, count ? out0->element_count() / count : 0, out0->typed_data(),
                  out1->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxrnn

#pragma GCC visibility push(default)

// Four arrays of one shape: the two words of the keys, and the two of what is encrypted. The results are the two words of
// what comes out.
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_threefry, jaxrnn::threefry,
                              ffi::Ffi::Bind()
                                  .Arg<jaxrnn::In>()
                                  .Arg<jaxrnn::In>()
                                  .Arg<jaxrnn::In>()
                                  .Arg<jaxrnn::In>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>());

// The two words of each of many keys, [..., 2]. Of each result, the two words of what comes out.
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_random_words, jaxrnn::random_words,
                              ffi::Ffi::Bind()
                                  .Arg<jaxrnn::In>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>());

#pragma GCC visibility pop
