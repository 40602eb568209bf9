# lram_library, lram_program, lram_test, lram_bench, lram_kernel_objects: what the folders' CMakeLists.txt are made of.

# A list of sources in which "a.cpp b.cpp", quoted, has become one file that includes both. A file with LibTorch takes
# 1 (Clang) to 8 s (GCC) of a core before its first line. Not CMake's UNITY_BUILD, whose absolute paths other checkouts'
# ccache cannot use.
function(lram_join result)
  set(sources)
  foreach(item IN LISTS ARGN)
    string(REPLACE " " ";" files "${item}")
    list(LENGTH files count)
    if(count GREATER 1)
      list(GET files 0 first)
      get_filename_component(first ${first} NAME_WE)
      set(item ${CMAKE_CURRENT_BINARY_DIR}/${first}_and_more.cpp)
      set(text)
      foreach(file IN LISTS files)
        file(RELATIVE_PATH file ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${file})
        string(APPEND text "#include \"${file}\"\n")
      endforeach()
      file(CONFIGURE OUTPUT ${item} CONTENT "${text}" @ONLY)
    endif()
    list(APPEND sources ${item})
  endforeach()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()

# lram_use_torch(TARGET [flag ...]): one precompiled header for every target with LibTorch and those flags more than the
# others. Clang's names the folder that it was made in, which would keep ccache from sharing objects between presets and
# checkouts: so it lies in the cache folder.
function(lram_use_torch target)
  # A program's own -fPIE would not fit the header, which is compiled with -fPIC.
  target_compile_options(${target} PRIVATE -fPIC)
  if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    lram_torch_pch(header made_by ${ARGN})
    add_dependencies(${target} ${made_by})
    target_compile_options(${target} PRIVATE -Xclang -fno-pch-timestamp "SHELL:-include-pch ${header}")
    return()
  endif()
  if(NOT TARGET lram_torch_pch)
    file(WRITE ${PROJECT_BINARY_DIR}/torch_pch.cpp "")
    add_library(lram_torch_pch OBJECT ${PROJECT_BINARY_DIR}/torch_pch.cpp)
    target_link_libraries(lram_torch_pch PRIVATE lram_warnings lram::libtorch fmt::fmt)
    target_include_directories(lram_torch_pch PRIVATE ${PROJECT_SOURCE_DIR})
    target_precompile_headers(lram_torch_pch PRIVATE ${PROJECT_SOURCE_DIR}/cmake/torch_pch.h)
    target_compile_options(lram_torch_pch PRIVATE -fpch-preprocess)
  endif()
  target_compile_options(${target} PRIVATE -fpch-preprocess)
  target_precompile_headers(${target} REUSE_FROM lram_torch_pch)
endfunction()

# Clang's precompiled header for those flags, and the target that makes it.
function(lram_torch_pch result made_by)
  string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
  separate_arguments(flags UNIX_COMMAND "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${type}}")
  list(APPEND flags ${ARGN} -std=c++20 -fPIC -ffp-contract=off -DFMT_SHARED -fpch-instantiate-templates
    -Xclang -fno-pch-timestamp
    -isystem ${LRAM_TORCH_DIR}/include -isystem ${LRAM_TORCH_DIR}/include/torch/csrc/api/include)
  set(source ${PROJECT_SOURCE_DIR}/cmake/torch_pch.h)
  file(SHA256 ${source} text)
  string(SHA256 key "${flags} ${text} ${CMAKE_CXX_COMPILER} ${CMAKE_CXX_COMPILER_VERSION} ${LRAM_TORCH_VERSION}")
  string(SUBSTRING ${key} 0 16 key)
  set(header ${LRAM_DEPS}/pch/${key}/torch_pch.h)
  set(${result} ${header}.pch PARENT_SCOPE)
  set(${made_by} lram_torch_pch_${key} PARENT_SCOPE)
  if(NOT TARGET lram_torch_pch_${key})
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    configure_file(${source} ${header} COPYONLY)
    # Its name says all that it depends on: what another build made, or is making, will do.
    add_custom_command(OUTPUT ${header}.pch COMMENT "Precompiling ${header}" DEPENDS ${header} VERBATIM
      COMMAND flock ${header}.lock sh -c [[test -e "$0.pch" || { "$@" -o "$0.part" && mv "$0.part" "$0.pch"; }]]
              ${header} ${CMAKE_CXX_COMPILER} ${flags} -x c++-header ${header})
    add_custom_target(lram_torch_pch_${key} DEPENDS ${header}.pch)
  endif()
endfunction()

# lram_library(NAME [TORCH] SOURCES a.cpp ... DEPS target ...)
# Headers sit beside the sources; includes start at the root of the repository. Files in quotes compile as one.
function(lram_library name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;DEPS" ${ARGN})
  lram_join(sources ${arg_SOURCES})
  add_library(${name} STATIC ${sources})
  target_compile_features(${name} PUBLIC cxx_std_20)  # outside projects inherit it
  target_include_directories(${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/generated>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/lram>)
  target_link_libraries(${name} PUBLIC ${arg_DEPS} PRIVATE $<BUILD_INTERFACE:lram_warnings>)
  if(arg_TORCH)
    target_link_libraries(${name} PUBLIC lram::libtorch lram_torch_fmt)
    lram_use_torch(${name})
  endif()
  set_property(GLOBAL APPEND PROPERTY LRAM_LIBRARIES ${name})
endfunction()

# lram_program(NAME [TORCH] SOURCES a.cpp ... DEPS target ...): a program in the build folder's top,
# installed, and built with the target `lram`.
function(lram_program name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;DEPS" ${ARGN})
  lram_join(sources ${arg_SOURCES})
  add_executable(${name} ${sources})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} lram_warnings)
  if(arg_TORCH)
    lram_use_torch(${name})
  endif()
  if(NOT name STREQUAL lram)
    add_dependencies(lram ${name})
  endif()
  set_property(GLOBAL APPEND PROPERTY LRAM_PROGRAMS ${name})
endfunction()

# lram_test(envs/mujoco/cartpole_test [TORCH] DEPS lram_envs LABELS unit [SOURCES more.cpp] [TIMEOUT s])
# builds tests/envs/mujoco/cartpole_test.cpp and runs it as the test of that name.
# With CASES "name=gtest filter" ... each case becomes an entry of its own, NAME.name.
# lram_test(kernels/mlstm/mlstm_test BESIDE ...): a kernel's test lies beside it, not under tests/.
# lram_test(... IN envs/tests): one program, compiled as one file, of all tests with the same IN; an entry runs those of
# its own file. Such a file's names lie in a namespace that is called as the file. RUNS: programs that the test starts.
function(lram_test name)
  cmake_parse_arguments(arg "TORCH;BESIDE" "TIMEOUT;IN" "SOURCES;DEPS;LABELS;CASES;RUNS" ${ARGN})
  set(root ${PROJECT_SOURCE_DIR}/tests)
  if(arg_BESIDE)
    set(root ${PROJECT_SOURCE_DIR})
  endif()
  set(source ${root}/${name}.cpp)
  set(program ${name})
  set(only)
  if(arg_IN)
    set(program ${arg_IN})
    set(source ${PROJECT_BINARY_DIR}/obj/tests/${program}.cpp)
    set(only --file=tests/${name}.cpp)
  endif()
  string(REPLACE "/" "_" target test_${program})
  if(NOT TARGET ${target})
    add_executable(${target} ${source} ${arg_SOURCES})
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(${target} PRIVATE
      LRAM_SOURCE_DIR="${PROJECT_SOURCE_DIR}" LRAM_BINARY_DIR="${PROJECT_BINARY_DIR}")
    target_link_libraries(${target} PRIVATE lram_test_main lram_warnings)
    # A test's own code runs in no time; optimised it would take two to three times as long to compile. GCC's
    # precompiled header wants some optimisation.
    set(level -O1)
    if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
      set(level -O0)
    endif()
    target_compile_options(${target} PRIVATE ${level})
    if(arg_TORCH)
      lram_use_torch(${target} ${level})
    endif()
    if(arg_IN)
      file(GENERATE OUTPUT ${source} CONTENT
        "#include \"$<JOIN:$<TARGET_PROPERTY:${target},LRAM_FILES>,\"\n#include \">\"\n")
    endif()
  endif()
  set_property(TARGET ${target} APPEND PROPERTY LRAM_FILES tests/${name}.cpp)
  target_link_libraries(${target} PRIVATE ${arg_DEPS})
  if(arg_RUNS)
    add_dependencies(${target} ${arg_RUNS})
  endif()
  if("gpu" IN_LIST arg_LABELS)
    if(NOT TARGET gpu_tests)
      add_custom_target(gpu_tests)  # all of that label
    endif()
    add_dependencies(gpu_tests ${target})
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  if(NOT arg_CASES)
    set(arg_CASES "=*")
  endif()
  # Skipped means: every test of the entry skipped itself, so none failed.
  set(skipped "\\[  PASSED  \\] 0 tests\\.\n\\[  SKIPPED \\] [0-9]+ tests?, listed below:\n(\\[  SKIPPED \\] [^\n]*\n?)+$")
  foreach(case IN LISTS arg_CASES)
    string(REGEX MATCH "^([^=]*)=(.*)$" _ "${case}")
    set(entry ${name})
    if(CMAKE_MATCH_1)
      string(APPEND entry ".${CMAKE_MATCH_1}")
    endif()
    add_test(NAME ${entry} COMMAND ${target} ${only} --gtest_filter=${CMAKE_MATCH_2})
    set_tests_properties(${entry} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT}
      SKIP_REGULAR_EXPRESSION "${skipped}")
    if(arg_TORCH)
      # Tiny tensors: several threads would only wait for each other (a test of 1 s took 70 s).
      set_tests_properties(${entry} PROPERTIES ENVIRONMENT OMP_NUM_THREADS=1)
    endif()
  endforeach()
endfunction()

# lram_kernel_objects(TARGET SOURCES a_sm90.cu b_portable.cu c.cu ...): device code, each file for its
# own architectures, c.cu for all. A spill fails the build, but in b_portable.cu; a serialised wgmma is only told, for
# scripts/check_kernels to find. -lineinfo changes no code and lets sanitizer and profiler name source lines.
function(lram_kernel_objects target)
  cmake_parse_arguments(arg "" "" "SOURCES" ${ARGN})
  foreach(kind sm90 portable all)
    set(sources ${arg_SOURCES})
    if(kind STREQUAL all)
      list(FILTER sources EXCLUDE REGEX "_(sm90|portable)\\.cu$")
    else()
      list(FILTER sources INCLUDE REGEX "_${kind}\\.cu$")
    endif()
    if(sources)
      add_library(${target}_${kind} OBJECT ${sources})
      target_include_directories(${target}_${kind} PRIVATE ${PROJECT_SOURCE_DIR})
      target_link_libraries(${target}_${kind} PRIVATE fmt::fmt CUDA::cudart_static)
      set_target_properties(${target}_${kind} PROPERTIES CUDA_STANDARD 17)  # means 20: compiler.cmake
      target_compile_options(${target}_${kind} PRIVATE -Xcompiler=-Wall,-Wextra -lineinfo)
      if(kind STREQUAL sm90)
        set_target_properties(${target}_${kind} PROPERTIES CUDA_ARCHITECTURES 90a-real)
      elseif(kind STREQUAL portable)
        set_target_properties(${target}_${kind} PROPERTIES CUDA_ARCHITECTURES "80-real;80-virtual")
      endif()
      if(LRAM_PTXAS_VERBOSE)  # for scripts/check_kernels
        target_compile_options(${target}_${kind} PRIVATE -Xptxas=-v)
      endif()
      if(NOT kind STREQUAL portable)
        target_compile_options(${target}_${kind} PRIVATE -Xptxas=--warn-on-spills,--warning-as-error)
      endif()
      target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${kind}>)
    endif()
  endforeach()
endfunction()

# lram_bench(kernels/mlstm/mlstm_bench DEPS lram_kernels): a program build/.../mlstm_bench that times
# a kernel; no test.
function(lram_bench name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  get_filename_component(target ${name} NAME)
  add_executable(${target} ${PROJECT_SOURCE_DIR}/${name}.cpp ${arg_SOURCES})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${target} PRIVATE ${arg_DEPS} lram_warnings)
endfunction()

# lram_embed(TARGET VARIABLE name BASE folder FILES f ...): the files' bytes as a table
# `const lram::EmbeddedFile name[]` (lram/core/embedded_file.h), so that a moved program has them.
function(lram_embed target)
  cmake_parse_arguments(arg "" "VARIABLE;BASE" "FILES" ${ARGN})
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${arg_VARIABLE}.cpp)
  list(TRANSFORM arg_FILES PREPEND ${arg_BASE}/ OUTPUT_VARIABLE inputs)
  string(REPLACE ";" "," names "${arg_FILES}")
  add_custom_command(OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -D BASE=${arg_BASE} -D FILES=${names} -D VARIABLE=${arg_VARIABLE}
            -D OUTPUT=${output} -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    DEPENDS ${inputs} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake VERBATIM)
  set_source_files_properties(${output} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
  target_sources(${target} PRIVATE ${output})
endfunction()
