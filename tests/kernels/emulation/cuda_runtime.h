#pragma once
// What our kernels and their launchers take from the CUDA runtime, on the CPU (machine.h). Found on
// the include path before a toolkit's own header, so that the emulation needs none.
#include <math.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __shared__ static __attribute__((section("emulated_shared")))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __forceinline__ inline
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  template <typename X = unsigned, typename Y = unsigned>
  dim3(X x_ = 1, Y y_ = 1) : x(static_cast<unsigned>(x_)), y(static_cast<unsigned>(y_)) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

// --- Built-in functions
using std::max;
using std::min;
void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
namespace lram::emulation {
/// `value` of lane `from`, or the lane's own where there is none.
std::uint64_t shuffle(std::uint64_t value, int from);
int lane();
template <typename T>
T shuffle_value(T value, int from) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <typename To, typename From>
To bits_as(From x) {
  To y;
  static_assert(sizeof(To) == sizeof(From));
  std::memcpy(&y, &x, sizeof(To));
  return y;
}
}  // namespace lram::emulation
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return lram::emulation::shuffle_value(value, from);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int step) {
  return lram::emulation::shuffle_value(value, lram::emulation::lane() - step);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int step) {
  return lram::emulation::shuffle_value(value, lram::emulation::lane() + step);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return lram::emulation::shuffle_value(value, lram::emulation::lane() ^ mask);
}
unsigned __ballot_sync(unsigned mask, bool vote);
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : __builtin_ctz(x) + 1; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __uint_as_float(unsigned x) { return lram::emulation::bits_as<float>(x); }
inline unsigned __float_as_uint(float x) { return lram::emulation::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return lram::emulation::bits_as<float>(x); }
inline int __float_as_int(float x) { return lram::emulation::bits_as<int>(x); }
template <typename T>
T __ldg(const T* x) {
  return *x;
}
template <typename T>
T __ldcs(const T* x) {
  return *x;
}

// --- The runtime: one device of compute capability 9.0 with three multiprocessors, calls that are
// done when they return.
using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDefault };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrL2CacheSize
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

cudaError_t cudaMalloc(void** out, std::size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer);
cudaError_t cudaDeviceSynchronize();  ///< changes the order of execution (machine.h)
inline cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  return cudaMemset(to, value, bytes);
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                                   cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  constexpr int kValues[] = {3, 227 * 1024, 9, 0, 384 * 1024};
  *value = kValues[attribute];
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return bytes <= 227 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
inline const char* cudaGetErrorName(cudaError_t) { return "cudaErrorInvalidValue"; }

// --- The driver's entry point behind tensor maps (cuda.h)
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
enum { cudaEnableDefault };
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             int flags, cudaDriverEntryPointQueryResult* result);
