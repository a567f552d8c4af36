/* Kernels of the SK unit for x86-64 CPUs with AVX2 or AVX-512: float32, channels last.
 *
 * A plain shared library that library.py calls through ctypes. Without it, or on another CPU, everything runs on torch's own
 * operations. _sk.h holds the kernels, written with GCC's vector types; it is included once for each instruction set.
 *
 * Why they are faster than one operation after the other: the branches' convolutions share one pass over the input and
 * compute the sums that norms and pooling need on the way; norm, ReLU, pooling and selection read each map once;
 * convolutions with few channels a group fill whole vectors. */

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BRANCHES 8
#define MAX_DILATION 4
#define STEP 2      /* rows of a branch at a time, for which its weights stay in the cache */
#define NO_MEMORY 1 /* what a kernel returns if it cannot allocate; library.py raises MemoryError */
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FN(name) JOIN(name, ISA)

#define ISA avx512
#define V 16
#define TILE 16 /* sums in registers: half of 32 */
#define TARGET __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#include "_sk.h"

#define ISA avx2
#define V 8
#define TILE 8 /* half of 16 */
#define TARGET __attribute__((target("arch=x86-64-v3")))
#include "_sk.h"

/* Raised with every change of a kernel's arguments: a library of another version is not loaded. */
int sk_version(void) {
    return 2;
}

/* Returns the lanes of the widest vectors that this CPU has kernels for; 0 if there are none. */
int sk_lanes(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
        return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}
