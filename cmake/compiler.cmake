# Warnings, sanitizers, compiler cache, linker.

# Third-party headers are SYSTEM and so stay quiet.
add_library(lram_warnings INTERFACE)
target_compile_options(lram_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion>
  $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wno-sign-conversion>)  # GCC's -Wconversion is without it

# A seed must give dm_control's own bits: no fused multiply-add unless the source says std::fma.
add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>)

if(LRAM_SANITIZE)
  add_compile_options(-fsanitize=${LRAM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${LRAM_SANITIZE})
endif()

if(LRAM_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

find_program(LRAM_LLD ld.lld)
if(LRAM_LLD)
  add_link_options(-fuse-ld=lld)  # half the time of the default
endif()

find_program(LRAM_CCACHE ccache)
if(LRAM_CCACHE)
  # Precompiled headers are cached only with these; base_dir lets other checkouts share.
  set(launcher ${CMAKE_COMMAND} -E env
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
    CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${LRAM_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${launcher})
endif()

if(LRAM_EVERY_LANE_ARRIVES)
  add_compile_definitions(LRAM_EVERY_LANE_ARRIVES)
endif()

if(LRAM_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # *_sm90.cu narrow this to 90a-real, *_portable.cu to 80-real;80-virtual.
    set(CMAKE_CUDA_ARCHITECTURES 80-real 80-virtual 90a-real)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    # CMake 3.25 does not know that CUDA 13 has C++20: its name for 17 gives the flag.
    set(CMAKE_CUDA17_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA17_EXTENSION_COMPILE_OPTION -std=c++20)
  else()
    message(STATUS "No CUDA compiler: LibTorch's own kernels alone")
  endif()
endif()
