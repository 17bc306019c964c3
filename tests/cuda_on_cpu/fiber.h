// A fiber, which runs a thread of a kernel on a stack of its own.
//
// ucontext switches to the stack for the first time; then _setjmp and _longjmp switch, without a system call.
#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <cstddef>

namespace emulator {

class Fiber {
public:
    static constexpr size_t STACK = 128 << 10;  // build.py refuses kernels that may need more than half of it

    void start(unsigned char* stack, void (*body)()) {
        stack_ = stack;
        body_ = body;
    }

    // Run it until it pauses.
    __attribute__((noinline)) void resume() {
        if (_setjmp(scheduler_)) return;
        if (!body_) _longjmp(paused_, 1);
        enter();
    }

    __attribute__((noinline)) void pause() {
        if (!_setjmp(paused_)) _longjmp(scheduler_, 1);
    }

private:
    void enter() {
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stack_;
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, body_, 0);
        body_ = nullptr;
        setcontext(&context);
    }

    static inline jmp_buf scheduler_;
    jmp_buf paused_;
    unsigned char* stack_ = nullptr;
    void (*body_)() = nullptr;  // null once it has begun
};

}  // namespace emulator
