// What the rooms of the virtual GPU share. One lock guards everything: a call holds it from its beginning to its end.
#pragma once
#include <cuda.h>

#undef cuEventElapsedTime  // newer headers rename these; drivers keep the old names, which gpu_tune calls
#undef cuGraphInstantiate

#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fake {

using Operation = std::function<void()>;

// Work is queued and runs when somebody waits for it, so that a forgotten wait shows.
struct Stream {
    std::deque<Operation> queue;
    std::vector<Operation> captured;
    bool capturing = false, invalid = false;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
    std::thread::id owner;
    unsigned long long id = 0;
};

extern std::recursive_mutex mutex;
extern CUresult lost;     // the error that cost the context
extern double clock_ns;   // virtual time

CUresult usable();                                // a context is current and not lost
CUresult uncaptured();                            // usable, and no capture forbids calls that allocate, load or wait
CUresult issue(CUstream stream, Operation what);  // queue it, or capture it
void drain_all();                                 // run all that is queued
bool readable(CUdeviceptr address, size_t bytes); // within one live allocation
double noise();                                   // uniform 0 .. 1
inline bool logged() { return getenv("FAKE_CUDA_LOG") != nullptr; }
void log_line(const std::string& text);           // to the file that FAKE_CUDA_LOG names
inline bool has(const std::string& name, const char* word) { return name.find(word) != std::string::npos; }

}  // namespace fake

#define FAKE_CALL std::lock_guard<std::recursive_mutex> guard(fake::mutex)
#define FAKE_TRY(expression)                                   \
    do {                                                       \
        if (CUresult status = (expression)) return status;     \
    } while (0)
