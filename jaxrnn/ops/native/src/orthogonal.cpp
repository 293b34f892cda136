// Orthonormal columns from the columns of a matrix: the Q of its QR decomposition whose R has a positive diagonal, which
// is unique. By reflections (Householder 1958, doi:10.1145/320941.320947), and in double precision: what processors and
// compilers round in their own ways hardly shows in float32.

#include <cmath>
#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

constexpr int kLanes = 8;  // partial sums, so that the compiler makes vectors of them

double dot(const double* x, const double* y, int64_t size) {
  double sums[kLanes] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) sums[lane] += x[i + lane] * y[i + lane];
  }
  for (; i < size; i++) sum += x[i] * y[i];
  for (const double lane : sums) sum += lane;
  return sum;
}

// column -= scale * v * (v' column), the reflection at the plane that is orthogonal to v.
void reflect(double* column, const double* v, double scale, int64_t size) {
  const double factor = scale * dot(v, column, size);
  for (int64_t i = 0; i < size; i++) column[i] -= factor * v[i];
}

// From z to q, [rows, columns] with rows >= columns. The columns of `v` and `work` lie one after the other.
template <class T>
void orthonormalize(const T* z, T* q, int64_t rows, int64_t columns) {
  std::vector<double> v(rows * columns), work(rows * columns), scales(columns), signs(columns);
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t column = 0; column < columns; column++) v[column * rows + row] = z[row * columns + column];
  }
  for (int64_t k = 0; k < columns; k++) {
    double* x = &v[k * rows + k];
    const int64_t size = rows - k;
    const double length = std::sqrt(dot(x, x, size));
    signs[k] = x[0] > 0 ? -1 : 1;  // of the diagonal of R; chosen so that nothing cancels in the next line
    x[0] -= signs[k] * length;
    const double square = dot(x, x, size);
    scales[k] = square == 0 ? 0 : 2 / square;
    for (int64_t j = k + 1; j < columns; j++) reflect(&v[j * rows + k], x, scales[k], size);
  }
  // All reflections of the first columns of the identity, the last one first.
  for (int64_t k = columns; k-- > 0;) {
    work[k * rows + k] = 1;
    for (int64_t j = k; j < columns; j++) reflect(&work[j * rows + k], &v[k * rows + k], scales[k], rows - k);
  }
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t column = 0; column < columns; column++) {
      q[row * columns + column] = (T)(signs[column] * work[column * rows + row]);
    }
  }
}

template <class T>
void orthonormalize_all(const ffi::AnyBuffer& z, ffi::AnyBuffer& q) {
  const auto sizes = z.dimensions();
  const int64_t rows = sizes[sizes.size() - 2], columns = sizes.back();
  const auto from = z.typed_data<T>();
  const auto to = q.typed_data<T>();
  for (int64_t begin = 0; begin < (int64_t)z.element_count(); begin += rows * columns) {
    orthonormalize(from + begin, to + begin, rows, columns);
  }
}

ffi::Error orthonormal(ffi::AnyBuffer z, ffi::Result<ffi::AnyBuffer> q) {
  if (z.element_type() == ffi::DataType::F64) {
    orthonormalize_all<double>(z, *q);
  } else {
    orthonormalize_all<float>(z, *q);
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxrnn

#pragma GCC visibility push(default)

// z and q, [..., rows, columns] with rows >= columns.
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_orthonormal, jaxrnn::orthonormal,
                              ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());

#pragma GCC visibility pop
