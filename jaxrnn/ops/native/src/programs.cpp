// The forward and the backward loop of programs, for the instruction set this file is compiled for. See program.h; with
// AMX, also amx.h.
//
// The loop of a step is that of recurrence.cpp, but the products of some rows and units are stored, and the program then
// computes on them. Threads divide the rows or the units, or one
// runs the steps and another one computes the gradients of weights and inputs.

#include <algorithm>
#include <cstring>

#include "elementwise.h"
#include "program_backward.h"
#include "program_forward.h"

namespace jaxrnn::JAXRNN_ISA {

template <class T>
constexpr ProgramKernels<T> kKernels{ProgramWorkspace<T>::bytes, program_forward<T>, program_backward<T>, elementwise<T>};

extern const ProgramKernels<float> program_kernels_f32 = kKernels<float>;
#if !defined(JAXRNN_FLOAT32_ONLY) && !defined(JAXRNN_TILES)  // sanitizers take long to compile; tiles have no doubles
extern const ProgramKernels<double> program_kernels_f64 = kKernels<double>;
#endif

}  // namespace jaxrnn::JAXRNN_ISA
