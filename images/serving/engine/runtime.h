// What this build of torch is and can load, and the threads that it computes with.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace torchyard {

// torch's version, such as "2.8.0".
std::string torch_version();

// The schemas of every operator that an archive may call, sorted.
std::vector<std::string> operators();

// What operators were before their meaning changed, sorted: the archive version from which on each is as it is now, and
// its schema until then. This torch reads older archives by a function that computes what the operator meant then.
std::vector<std::pair<uint64_t, std::string>> upgraders();

// The qualified names of every custom class that an archive may hold, sorted.
std::vector<std::string> classes();

// The first and last archive version that this torch reads.
std::pair<uint64_t, uint64_t> archive_versions();

// Sets how many threads one operator uses when the calling thread runs it: OpenMP keeps that number per thread.
void set_threads(int count);

// How many threads one operator uses when the calling thread runs it.
int threads();

// Gives memory that was freed back to the kernel, which the allocator keeps otherwise: all of the calling thread's, and
// of other threads' what does not lie at the end. From then on up to 64 MiB of it are kept, as after large tensors.
void trim();

}  // namespace torchyard
