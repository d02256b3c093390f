// Memory that is kept from call to call, one block for each use and thread.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(memory_); }

  // room for that many elements, with what is left in it from before
  template <typename T>
  T* get(int64_t count) {
    const int64_t bytes = count * int64_t(sizeof(T));
    if (bytes > size_) grow(bytes);
    return static_cast<T*>(memory_);
  }

 private:
  void grow(int64_t bytes) {
    std::free(memory_);
    // a quarter more, so that slowly growing batches do not allocate each time
    size_ = (bytes + bytes / 4 + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    memory_ = std::aligned_alloc(HUGE_PAGE, size_t(size_));
    if (memory_ == nullptr) throw std::bad_alloc();
    madvise(memory_, size_t(size_), MADV_HUGEPAGE);
  }

  static constexpr int64_t HUGE_PAGE = 1 << 21;
  void* memory_ = nullptr;
  int64_t size_ = 0;
};
