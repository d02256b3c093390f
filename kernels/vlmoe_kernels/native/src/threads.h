// Tasks over the threads of OpenMP, the library that torch uses too, so that there is one pool of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

// below this many multiply-adds a thread is not worth waking
constexpr int64_t MIN_WORK = 1 << 20;

// body(task) for each task; whoever is free takes the next one
template <typename Body>
void parallel(int64_t num_threads, int64_t num_tasks, int64_t work, Body body) {
  num_threads = std::min({num_threads, num_tasks, work / MIN_WORK + 1});
  if (num_threads <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(int(num_threads))
  // an exception must not leave the region; the only one there is, is this
  try {
    for (int64_t task = next++; task < num_tasks; task = next++) body(task);
  } catch (const std::bad_alloc&) {
    failed = true;
  }
  if (failed) throw std::bad_alloc();
}
