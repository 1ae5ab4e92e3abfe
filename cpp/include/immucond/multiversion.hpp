#pragma once

// Function multi-versioning: a loop marked IMMUCOND_MULTIVERSION is compiled for the x86-64
// baseline, for AVX2 + FMA (x86-64-v3) and for AVX-512 (x86-64-v4); the loader picks one.
#if !defined(IMMUCOND_NO_MULTIVERSION) && defined(__x86_64__) && defined(__linux__) && \
    defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define IMMUCOND_MULTIVERSION \
  __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define IMMUCOND_HAS_MULTIVERSION 1
#else
#define IMMUCOND_MULTIVERSION
#define IMMUCOND_HAS_MULTIVERSION 0
#endif
