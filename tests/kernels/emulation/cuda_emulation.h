// Runs CUDA kernels on a CPU: g++ compiles their unmodified source, with the words of CUDA C++ defined here.
//
// Every CUDA thread is either a fiber (fast; lanes run one after the other, each as far as the next barrier, so that a
// missing barrier gives wrong numbers) or, with -DCLAPRT_THREADS, an OS thread (slow; for ThreadSanitizer, which names a
// missing barrier's line, and for AddressSanitizer, which does not follow fibers). Blocks run one after the other.
//
// What a kernel may use: threadIdx (x), blockIdx (x, y), static __shared__ arrays, __syncthreads, __syncwarp, __shfl_sync (all
// lanes take part), and the functions below. A warp has 32 lanes.

#pragma once

#include <immintrin.h>

#include <atomic>
#include <climits>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#ifdef CLAPRT_THREADS
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

struct float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

struct dim3 {
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    unsigned x, y, z;
};

struct __half {
    std::uint16_t bits;
};
inline __half __float2half_rn(float value) { return {static_cast<std::uint16_t>(_cvtss_sh(value, 0))}; }

template <typename T>
T __ldg(const T* address) {
    return *address;
}
inline float __fmul_rn(float a, float b) {
    volatile float product = a * b;  // never part of a fused multiply-add
    return product;
}
inline void sincospif(float x, float* sine, float* cosine) {
    const double angle = 3.14159265358979323846 * static_cast<double>(x);
    *sine = static_cast<float>(std::sin(angle));
    *cosine = static_cast<float>(std::cos(angle));
}
inline float __log2f(float x) { return std::log2(x); }
inline int __float_as_int(float x) {
    int bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline thread_local dim3 threadIdx, blockIdx, gridDim, blockDim;

namespace emulation {

constexpr int kWarp = 32;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulated kernel: %s (block %u, %u, thread %u)\n", what, blockIdx.x, blockIdx.y, threadIdx.x);
    std::abort();
}

#ifdef CLAPRT_THREADS

// Orders what barriers order and nothing more: with a mutex in it, who wakes up late would be ordered after all that the
// others have done since, and ThreadSanitizer would not see a race there.
class Barrier {
  public:
    explicit Barrier(int count) : state_(count * kOne) {}
    void wait() {
        const int phase = phase_.load(std::memory_order_relaxed);  // it changes only after this thread has arrived
        if (completed(state_.fetch_add(1) + 1)) return;
        while (phase_.load(std::memory_order_acquire) == phase)
            syscall(SYS_futex, &phase_, FUTEX_WAIT_PRIVATE, phase, nullptr, nullptr, 0);
    }
    void leave() { completed(state_.fetch_sub(kOne) - kOne); }  // a thread that has returned is waited for no longer

  private:
    static constexpr std::int64_t kOne = std::int64_t{1} << 32;

    bool completed(std::int64_t state) {  // if so, all others wait, or have left
        const std::int64_t count = state / kOne, arrived = state % kOne;
        if (count == 0 || arrived != count) return false;
        state_.fetch_sub(arrived);
        phase_.fetch_add(1, std::memory_order_release);
        syscall(SYS_futex, &phase_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
        return true;
    }

    std::atomic<std::int64_t> state_;  // how many threads there are, and how many of them have arrived
    std::atomic<int> phase_{0};
};

inline thread_local Barrier* warp_barrier;
inline thread_local Barrier* block_barrier;
inline thread_local std::uint64_t* slots;  // of the warp: 2 for each lane
inline thread_local int turns, *turn = &turns;

inline void sync_warp() { warp_barrier->wait(); }
inline void sync_block() { block_barrier->wait(); }

inline void launch(dim3 grid, unsigned threads, const std::function<void()>& kernel) {
    // The threads are those of all blocks, one after the other: starting one costs a sanitizer more than its work here.
    const unsigned blocks = grid.x * grid.y, warps = (threads + kWarp - 1) / kWarp;
    std::deque<Barrier> of_blocks, of_warps;  // each block has its own: who returns early leaves those
    for (unsigned i = 0; i < blocks; ++i) of_blocks.emplace_back(static_cast<int>(threads));
    for (unsigned i = 0; i < blocks * warps; ++i) of_warps.emplace_back(kWarp);
    Barrier between(static_cast<int>(threads));
    std::vector<std::uint64_t> exchanged(2 * threads);
    std::vector<std::thread> running;
    for (unsigned i = 0; i < threads; ++i) {
        running.emplace_back([&, i] {
            threadIdx.x = i, blockDim.x = threads, gridDim = grid;
            slots = exchanged.data() + i / kWarp * 2 * kWarp;
            for (unsigned block = 0; block < blocks; ++block) {
                blockIdx.x = block % grid.x, blockIdx.y = block / grid.x;
                warp_barrier = &of_warps[block * warps + i / kWarp];
                block_barrier = &of_blocks[block];
                turns = 0;
                kernel();
                warp_barrier->leave();
                block_barrier->leave();
                between.wait();
            }
        });
    }
    for (auto& thread : running) thread.join();
}

#else

enum class State { ready, at_warp, at_block, done };

struct Fiber {
    jmp_buf here;
    State state = State::done;
    void* stack = nullptr;
    int turn = 0;
};

constexpr std::size_t kStack = 1 << 17;

inline thread_local Fiber* fibers;  // of the block that runs
inline thread_local jmp_buf scheduler;
inline thread_local std::uint64_t slots_of_block[2 * 1024], *slots;  // 2 for each thread; those of the current warp
inline thread_local int* turn;
inline thread_local const std::function<void()>* job;
inline thread_local unsigned current;
inline thread_local ucontext_t entry, origin;

inline void pause(State state) {
    Fiber& self = fibers[current];
    self.state = state;
    if (_setjmp(self.here) == 0) _longjmp(scheduler, 1);
}

inline void fiber_main() {
    for (;;) {
        if (_setjmp(fibers[current].here) == 0) _longjmp(scheduler, 1);
        (*job)();
        fibers[current].state = State::done;
    }
}

inline void resume(unsigned i) {
    current = i;
    threadIdx.x = i;
    Fiber& fiber = fibers[i];
    slots = slots_of_block + i / kWarp * 2 * kWarp;
    turn = &fiber.turn;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.stack == nullptr) {
        fiber.stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        getcontext(&entry);
        entry.uc_stack.ss_sp = fiber.stack;
        entry.uc_stack.ss_size = kStack;
        entry.uc_link = nullptr;
        makecontext(&entry, fiber_main, 0);
        swapcontext(&origin, &entry);
    }
    _longjmp(fiber.here, 1);
}

inline void sync_warp() { pause(State::at_warp); }
inline void sync_block() { pause(State::at_block); }

// Runs the fibers first … last-1 until each waits for others or is done; whether all wait in the given state.
inline bool all_at(unsigned first, unsigned last, State state) {
    bool some = false;
    for (unsigned i = first; i < last; ++i) {
        if (fibers[i].state == State::done) continue;
        some = true;
        if (fibers[i].state != state) return false;
    }
    return some;
}

inline void launch(dim3 grid, unsigned threads, const std::function<void()>& kernel) {
    if (threads % kWarp != 0 || threads > 1024) fail("a block must be whole warps, of at most 1024 threads");
    job = &kernel;
    static thread_local std::vector<Fiber> of_thread;
    if (of_thread.size() < threads) of_thread = std::vector<Fiber>(threads);
    fibers = of_thread.data();
    for (unsigned i = 0; i < threads; ++i)
        if (fibers[i].stack == nullptr) resume(i);  // as far as its first wait
    gridDim = grid, blockDim.x = threads;
    for (unsigned block = 0; block < grid.x * grid.y; ++block) {
        blockIdx.x = block % grid.x, blockIdx.y = block / grid.x;
        for (unsigned i = 0; i < threads; ++i) fibers[i].state = State::ready;
        for (bool going = true; going;) {
            going = false;
            for (unsigned first = 0; first < threads; first += kWarp) {
                const unsigned last = first + kWarp;
                for (;;) {
                    bool ran = false;
                    for (unsigned i = first; i < last; ++i) {
                        if (fibers[i].state != State::ready) continue;
                        resume(i);
                        ran = true;
                    }
                    if (all_at(first, last, State::at_warp)) {
                        for (unsigned i = first; i < last; ++i)
                            if (fibers[i].state == State::at_warp) fibers[i].state = State::ready;
                        continue;
                    }
                    if (!ran) break;
                }
            }
            if (all_at(0, threads, State::at_block)) {
                for (unsigned i = 0; i < threads; ++i)
                    if (fibers[i].state == State::at_block) fibers[i].state = State::ready;
                going = true;
            }
        }
        for (unsigned i = 0; i < threads; ++i)
            if (fibers[i].state != State::done) fail("some threads wait at a barrier that the others never reach");
    }
}

#endif

// Two sets of slots take turns, so that one barrier is enough: who writes to a set again has passed another barrier since,
// and so have all who were to read from it.
template <typename T>
T shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8);
    if (mask != 0xffffffffu) fail("only shuffles of all 32 lanes are emulated");
    std::uint64_t* mine = slots + (*turn ^= 1) * kWarp;
    std::memcpy(mine + threadIdx.x % kWarp, &value, sizeof value);
    sync_warp();
    T result;
    std::memcpy(&result, mine + source % kWarp, sizeof result);
    return result;
}

}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    if (mask != 0xffffffffu) emulation::fail("only __syncwarp of all 32 lanes is emulated");
    emulation::sync_warp();
}
inline void __syncthreads() { emulation::sync_block(); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
    return emulation::shuffle(mask, value, source);
}
