// A layer that takes one step at a time.

#pragma once

namespace jaxrnn {

class Stream {
 public:
  virtual ~Stream() = default;
  // A step from the carry c, h (c may be null for cells without one) to the new carry, which must not overlap it.
  virtual void step(const void* x, const void* c, const void* h, void* new_c, void* new_h) = 0;
};

}  // namespace jaxrnn
