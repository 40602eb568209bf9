# Before project(): with LibTorch, Clang, where there is one and nobody chose. Its precompiled header holds the
# instantiated templates, which GCC makes anew in every file. GCC builds everything too, without LibTorch by default.
if((NOT DEFINED LRAM_TORCH OR LRAM_TORCH) AND NOT CMAKE_CXX_COMPILER AND NOT CMAKE_TOOLCHAIN_FILE
   AND NOT DEFINED ENV{CXX} AND NOT DEFINED ENV{CC})
  find_program(LRAM_CLANG clang)
  find_program(LRAM_CLANGXX clang++)
  if(LRAM_CLANG AND LRAM_CLANGXX)
    execute_process(COMMAND ${LRAM_CLANGXX} -dumpversion OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(version VERSION_GREATER_EQUAL 14)
      set(CMAKE_C_COMPILER ${LRAM_CLANG})
      set(CMAKE_CXX_COMPILER ${LRAM_CLANGXX})
    endif()
  endif()
endif()
