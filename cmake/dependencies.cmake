# The libraries, as scripts/setup left them. LRAM_DEPS is that script's cache folder. The installed
# package reads this file too.
if(DEFINED ENV{LRAM_DEPS})
  set(LRAM_DEPS $ENV{LRAM_DEPS})
else()
  set(LRAM_DEPS $ENV{HOME}/.cache/lram)
endif()
if(NOT EXISTS ${LRAM_DEPS}/deps.cmake)
  message(FATAL_ERROR "${LRAM_DEPS}/deps.cmake is missing: run scripts/setup first")
endif()
include(${LRAM_DEPS}/deps.cmake)

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Boost REQUIRED COMPONENTS program_options)
find_package(Eigen3 REQUIRED NO_MODULE)
find_package(HDF5 REQUIRED COMPONENTS C)

# MuJoCo: headers and a library without the usual symbolic link, out of the Python wheel.
add_library(mujoco::mujoco SHARED IMPORTED GLOBAL)
file(GLOB mujoco_library ${LRAM_MUJOCO_DIR}/libmujoco.so.*)
string(REGEX REPLACE ".*libmujoco\\.so\\." "" LRAM_MUJOCO_VERSION "${mujoco_library}")
set_target_properties(mujoco::mujoco PROPERTIES
  IMPORTED_LOCATION ${mujoco_library}
  IMPORTED_SONAME libmujoco.so.${LRAM_MUJOCO_VERSION}
  INTERFACE_INCLUDE_DIRECTORIES ${LRAM_MUJOCO_DIR}/include)

set(LRAM_TORCH_VERSION none)
set(LRAM_CUDA_VERSION none)
if(LRAM_TORCH)
  # Linked directly: find_package(Torch) of the wheel insists on a CUDA toolkit, and `torch` instead
  # of `torch_cpu` would load the CUDA half into every program.
  file(STRINGS ${LRAM_TORCH_DIR}/version.py version_line REGEX "^__version__")
  string(REGEX REPLACE ".*'([^']*)'.*" "\\1" LRAM_TORCH_VERSION "${version_line}")
  add_library(lram::libtorch INTERFACE IMPORTED GLOBAL)
  target_include_directories(lram::libtorch SYSTEM INTERFACE
    ${LRAM_TORCH_DIR}/include ${LRAM_TORCH_DIR}/include/torch/csrc/api/include)
  target_link_libraries(lram::libtorch INTERFACE
    ${LRAM_TORCH_DIR}/lib/libtorch_cpu.so ${LRAM_TORCH_DIR}/lib/libc10.so)
  # LibTorch brings the shared C++ library. A toolchain that has only the static one would put a
  # second copy into the program: free() of a locale aborts at exit. So it is named here.
  target_link_libraries(lram::libtorch INTERFACE -l:libstdc++.so.6)
  # The CUDA and CUPTI libraries that libtorch_cpu.so names lie where its own run path finds them.
  # --no-as-needed: a linker that drops libraries by default (Ubuntu's) would drop the CUDA half.
  target_link_options(lram::libtorch INTERFACE
    -Wl,--unresolved-symbols=ignore-in-shared-libs -Wl,--no-as-needed)
  if(LRAM_CUDA)
    file(STRINGS ${LRAM_TORCH_DIR}/version.py cuda_line REGEX "^cuda")
    string(REGEX REPLACE ".*'([^']*)'.*" "\\1" LRAM_CUDA_VERSION "${cuda_line}")
    # Nothing of ours names a symbol of libtorch_cuda; loading it registers its kernels.
    target_link_libraries(lram::libtorch INTERFACE
      ${LRAM_TORCH_DIR}/lib/libtorch_cuda.so ${LRAM_TORCH_DIR}/lib/libc10_cuda.so)
  endif()
endif()

if(LRAM_TESTS)
  find_package(GTest REQUIRED)
endif()
